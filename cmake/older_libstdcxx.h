// Put before every file that is compiled against GCC 10's C++ library by a newer compiler (scripts/build-platform.mjs):
// what C++20 has and that library lacks.
#pragma once

#include <bit>

#ifndef __cpp_lib_bit_cast
namespace std {
template <class To, class From>
constexpr To bit_cast(const From& from) noexcept {
  return __builtin_bit_cast(To, from);
}
}  // namespace std
#endif
