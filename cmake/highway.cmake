# Google Highway: SIMD of the CPU backend. Only its headers are used, which are the same for every platform;
# native/backend/cpu/runtime/highway_targets.cc holds what its library would add.
find_path(LORA_HIGHWAY hwy/highway.h DOC "The folder with hwy/highway.h")
if(NOT LORA_HIGHWAY)
  message(FATAL_ERROR "lora-native needs the headers of Google Highway 1.2.0 or newer, and found none: apt-get install libhwy-dev (Debian 13, Ubuntu 24.10 or newer), apk add highway-dev, brew install highway, or -DLORA_HIGHWAY=FOLDER")
endif()
file(STRINGS ${LORA_HIGHWAY}/hwy/base.h lines REGEX "^#define HWY_(MAJOR|MINOR|PATCH) ")
string(REGEX REPLACE "[^0-9;]" "" numbers "${lines}")
list(JOIN numbers "." version)
if(version VERSION_LESS 1.2.0)
  message(FATAL_ERROR "lora-native needs Google Highway 1.2.0 or newer, and found ${version} in ${LORA_HIGHWAY}: install a newer libhwy-dev (Debian 13, Ubuntu 24.10 or newer)")
endif()

# Through a folder that holds nothing else: beside hwy/ lie the host's own headers, which are wrong for another target.
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/highway)
file(CREATE_LINK ${LORA_HIGHWAY}/hwy ${CMAKE_BINARY_DIR}/highway/hwy SYMBOLIC)
add_library(lora_highway INTERFACE)
target_include_directories(lora_highway SYSTEM INTERFACE ${CMAKE_BINARY_DIR}/highway)
# SSE2 is the floor that Highway cannot leave out on x86-64; with SSE4, AVX2, AVX3, AVX3_ZEN4 and AVX3_SPR
# these are the instruction sets that get a copy of each kernel.
set(LORA_HWY_DISABLED "HWY_SSSE3")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  # Vectors without a size at compile time cannot be kept in arrays, as the register blocks do: NEON.
  string(APPEND LORA_HWY_DISABLED "|HWY_ALL_SVE")
endif()
set(LORA_DISABLED_TARGETS "${LORA_HWY_DISABLED}")
set(LORA_SIMD_BUILD all CACHE STRING "Instruction sets: all, or native: the best that this machine's CPU has, beside SSE2 or NEON")
set_property(CACHE LORA_SIMD_BUILD PROPERTY STRINGS all native)
option(LORA_FEW_TARGETS "Leave out SSE4 and AVX3: one instruction set each of 16, 32 and 64 byte vectors, for checks" OFF)
option(LORA_BOCHS "For the tests that scripts/amx-check.mjs runs in Bochs: AVX3_SPR alone, beside SSE2" OFF)
if(LORA_BOCHS)
  string(APPEND LORA_DISABLED_TARGETS "|HWY_SSE4|HWY_AVX2|HWY_AVX3|HWY_AVX3_ZEN4")
  add_compile_options(-include ${PROJECT_SOURCE_DIR}/scripts/amx-check/convert_pairs.h)
  add_link_options(-static) # the guest has no libraries
elseif(LORA_SANITIZE OR LORA_FEW_TARGETS)
  # Instrumented kernels compile slowly: these are enough to find bad accesses.
  string(APPEND LORA_DISABLED_TARGETS "|HWY_SSE4|HWY_AVX3")
endif()
if(LORA_SANITIZE)
  # AVX3_DL, which Highway compiles on request only, has the kernels of AVX3_SPR there, with tiles in software.
  string(APPEND LORA_DISABLED_TARGETS "|HWY_AVX3_SPR")
  target_compile_definitions(lora_highway INTERFACE HWY_WANT_AVX3_DL=1 LORA_EMULATE_TILES=1)
else()
  string(APPEND LORA_DISABLED_TARGETS "|HWY_AVX3_DL")
endif()
if(LORA_SANITIZE OR LORA_SIMD_BUILD STREQUAL "native")
  # Asks this machine's CPU by the function that chooses an instruction set before kernels run.
  set(system linux)
  if(WIN32)
    set(system windows)
  elseif(APPLE)
    set(system macos)
  endif()
  set(native ${PROJECT_SOURCE_DIR}/native)
  get_target_property(definitions lora_highway INTERFACE_COMPILE_DEFINITIONS)
  list(REMOVE_ITEM definitions definitions-NOTFOUND)
  list(TRANSFORM definitions PREPEND -D)
  try_run(status compiled
    SOURCES ${PROJECT_SOURCE_DIR}/cmake/simd_targets.cc ${native}/backend/cpu/runtime/highway_targets.cc ${native}/core/runtime/platform/${system}.cc
    NO_CACHE
    CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${native};${CMAKE_BINARY_DIR}/highway"
    COMPILE_DEFINITIONS "-DHWY_DISABLED_TARGETS=(${LORA_DISABLED_TARGETS})" ${definitions}
    COMPILE_OUTPUT_VARIABLE said RUN_OUTPUT_VARIABLE targets
    CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON)
  if(NOT compiled OR NOT status EQUAL 0)
    message(FATAL_ERROR "cannot ask this CPU for its instruction sets (LORA_SIMD_BUILD=all does not ask):\n${said}${targets}")
  endif()
  list(GET targets 0 unusable)
  if(LORA_SANITIZE) # kernels that this CPU cannot run would compile for minutes and never be called
    string(APPEND LORA_DISABLED_TARGETS "|${unusable}")
  else()
    list(GET targets 1 not_best)
    string(APPEND LORA_DISABLED_TARGETS "|${not_best}")
    target_compile_definitions(lora_highway INTERFACE LORA_SIMD_LEFT_OUT=${not_best})
  endif()
elseif(NOT LORA_SIMD_BUILD STREQUAL "all")
  message(FATAL_ERROR "LORA_SIMD_BUILD must be all or native, not \"${LORA_SIMD_BUILD}\"")
endif()
target_compile_definitions(lora_highway INTERFACE "HWY_DISABLED_TARGETS=(${LORA_DISABLED_TARGETS})")
