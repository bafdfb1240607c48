// Two functions of newer C++ libraries that GCC 10's has not. Only the host code of CUDA kernels asks for them: nvcc compiles
// it with this machine's headers, so that the ordinary build and the one for older Linuxes share the kernels
// (docs/internals/platforms.md). Strings and string buffers are laid out alike in both.
#include <new>
#include <sstream>
#include <string>

namespace std {
// GCC 11: what a vector throws that is asked for more than there can be.
void __throw_bad_array_new_length() { throw bad_array_new_length(); }
}  // namespace std

// GCC 11 in C++20: std::stringbuf::str() const&, of which GCC 10 has the form without the reference.
extern "C++" std::string StringOf(const std::stringbuf* buffer) asm(
    "_ZNKRSt7__cxx1115basic_stringbufIcSt11char_traitsIcESaIcEE3strEv");
std::string StringOf(const std::stringbuf* buffer) { return buffer->str(); }
