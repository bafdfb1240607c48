// Divisions of whole numbers that round up.
#pragma once

#include <type_traits>

namespace lora {

// Returns ⌈a / b⌉ for numbers from 0 on.
template <class T>
constexpr T CeilDiv(T a, std::type_identity_t<T> b) {
  return (a + b - 1) / b;
}
// Returns the least multiple of `step` that is not below a.
template <class T>
constexpr T RoundUp(T a, std::type_identity_t<T> step) {
  return CeilDiv(a, step) * step;
}

}  // namespace lora
