# Google Highway: SIMD and the thread pool of the CPU backend. Debian ships only the shared library,
# so the add-on carries a copy of libhwy beside it and finds it through $ORIGIN.
find_package(PkgConfig REQUIRED)
pkg_check_modules(HWY QUIET IMPORTED_TARGET libhwy)
if(NOT HWY_FOUND)
  message(FATAL_ERROR "lora-native needs Google Highway 1.2.0 or newer, and found none: apt-get install libhwy-dev (Debian 13, Ubuntu 24.10 or newer)")
elseif(HWY_VERSION VERSION_LESS 1.2.0)
  message(FATAL_ERROR "lora-native needs Google Highway 1.2.0 or newer, and found ${HWY_VERSION}: install a newer libhwy-dev (Debian 13, Ubuntu 24.10 or newer)")
endif()

add_library(lora_highway INTERFACE)
target_link_libraries(lora_highway INTERFACE PkgConfig::HWY)
# SSE2 is the floor that Highway cannot leave out on x86-64; with SSE4, AVX2, AVX3 and AVX3_ZEN4 these
# are the instruction sets that get a copy of each kernel.
set(LORA_HWY_DISABLED "HWY_SSSE3|HWY_AVX3_DL|HWY_AVX3_SPR")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  # Vectors without a size at compile time cannot be kept in arrays, as the register blocks do: NEON.
  string(APPEND LORA_HWY_DISABLED "|HWY_ALL_SVE")
endif()
set(LORA_DISABLED_TARGETS "${LORA_HWY_DISABLED}")
if(LORA_SANITIZE)
  # Instrumented kernels compile slowly: one of 16, 32 and 64 byte vectors each is enough to find bad accesses.
  string(APPEND LORA_DISABLED_TARGETS "|HWY_SSE4|HWY_AVX3")
endif()
target_compile_definitions(lora_highway INTERFACE "HWY_DISABLED_TARGETS=(${LORA_DISABLED_TARGETS})")
