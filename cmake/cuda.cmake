# nvcc and the CUDA runtime. Kernels are compiled by plain commands instead of CMake's CUDA language: several devices'
# code from one intermediate form, ccache that is right, and nothing asked of a machine that has no nvcc.
#
# Sets LORA_CUDA_TOOLKIT where a toolkit is found, with LORA_CUDA_INCLUDE and LORA_CUDART (the static library): the tests of
# the driver need no kernels. Sets LORA_CUDA_FOUND where kernels are to be compiled with it, and then
# LORA_CUDA_ARCHITECTURES_TEXT and lora_cuda_object(SOURCE OUT), which compiles one .cu file.
set(LORA_CUDA AUTO CACHE STRING "The CUDA backend: AUTO (where nvcc is found), ON or OFF")
set_property(CACHE LORA_CUDA PROPERTY STRINGS AUTO ON OFF)
set(LORA_CUDA_ARCHITECTURES all CACHE STRING
  "GPU architectures to compile for: a list of 80, 86, 90, 100, 120, or 'all' of these. Newer devices of the same \
generation run the same code, and still newer ones have their driver compile the intermediate form")
option(LORA_CUDA_STRICT "Spills and stack frames of kernels are errors. They were looked for with the nvcc that CI has; \
another may need a register more, which costs speed and nothing else" ON)
option(LORA_CUDA_KEEP "Keep what ptxas said and the intermediate forms, for scripts/cuda-report.mjs" OFF)
set(LORA_CUDA_TOOLKIT FALSE)
set(LORA_CUDA_FOUND FALSE)

function(lora_cuda_missing why)
  if(LORA_CUDA STREQUAL "ON")
    message(FATAL_ERROR "LORA_CUDA=ON, but ${why}")
  elseif(LORA_CUDA STREQUAL "OFF")
    set(why "LORA_CUDA=OFF")
  endif()
  message(STATUS "CUDA backend: left out, because ${why}")
endfunction()

if(NOT LORA_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "LORA_CUDA must be AUTO, ON or OFF, not \"${LORA_CUDA}\"")
endif()
find_program(LORA_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin PATHS /usr/local/cuda/bin)
if(NOT LORA_NVCC)
  lora_cuda_missing("nvcc is not on the PATH, nor in CUDA_HOME, CUDA_PATH or /usr/local/cuda: install the CUDA toolkit 12.8 or newer, or set LORA_NVCC")
  return()
endif()

# The toolkit that this nvcc belongs to, in nvcc's own words (it may be a script, or in a package of another layout).
file(WRITE ${CMAKE_BINARY_DIR}/cuda/empty.cu "")
execute_process(COMMAND ${LORA_NVCC} --dryrun -c ${CMAKE_BINARY_DIR}/cuda/empty.cu -o ${CMAKE_BINARY_DIR}/cuda/empty.o
  OUTPUT_VARIABLE words ERROR_VARIABLE words RESULT_VARIABLE failed)
if(failed OR NOT words MATCHES "TOP=([^\n]+)")
  lora_cuda_missing("${LORA_NVCC} does not run: ${words}")
  return()
endif()
cmake_path(SET LORA_CUDA_TOP NORMALIZE ${CMAKE_MATCH_1})
find_path(LORA_CUDA_INCLUDE cuda_runtime_api.h HINTS ${LORA_CUDA_TOP}/include ${LORA_CUDA_TOP}/targets/x86_64-linux/include)
find_library(LORA_CUDART NAMES libcudart_static.a
  HINTS ${LORA_CUDA_TOP}/lib64 ${LORA_CUDA_TOP}/lib ${LORA_CUDA_TOP}/targets/x86_64-linux/lib)
if(NOT LORA_CUDA_INCLUDE OR NOT LORA_CUDART)
  lora_cuda_missing("the toolkit of ${LORA_NVCC} has no cuda_runtime_api.h or no libcudart_static.a")
  return()
endif()
set(LORA_CUDA_TOOLKIT TRUE)
if(LORA_CUDA STREQUAL "OFF")
  lora_cuda_missing("")
  return()
endif()

# One intermediate form serves a generation, and newer devices: compiling it is most of the work. Where there is code for
# all generations, the objects keep the oldest form alone: the others would serve only devices that no code is for, which
# are no GPU of an x64 machine, and take this one, whose launches do not overlap.
set(architectures ${LORA_CUDA_ARCHITECTURES})
if(architectures STREQUAL "all")
  set(architectures 80 86 90 100 120)
endif()
set(keeps_90 TRUE)
if(120 IN_LIST architectures AND architectures MATCHES "8[0-9]")
  set(keeps_90 FALSE)
endif()
set(gencode "")
set(virtuals "")
set(ptx "")
foreach(pair 80:80,86 90:90,100,120)
  string(REGEX MATCH "^[0-9]+" virtual ${pair})
  string(REGEX REPLACE "^[0-9]+:" "" known ${pair})
  string(REPLACE "," ";" known ${known})
  set(codes "")
  foreach(arch ${known})
    if(arch IN_LIST architectures)
      list(REMOVE_ITEM architectures ${arch})
      list(APPEND codes sm_${arch})
    endif()
  endforeach()
  if(codes)
    list(APPEND virtuals ${virtual})
    list(JOIN codes " " text)
    string(APPEND LORA_CUDA_ARCHITECTURES_TEXT "${text} ")
    if(virtual EQUAL 80 OR keeps_90)
      list(APPEND codes compute_${virtual})
      list(APPEND ptx compute_${virtual})
    endif()
    list(JOIN codes "," text)
    list(APPEND gencode "-gencode=arch=compute_${virtual},code=[${text}]")
  endif()
endforeach()
if(architectures OR NOT virtuals)
  message(FATAL_ERROR "LORA_CUDA_ARCHITECTURES knows 80, 86, 90, 100, 120 and 'all', but not: ${architectures}")
endif()
list(JOIN ptx " " text)
string(APPEND LORA_CUDA_ARCHITECTURES_TEXT "and PTX for ${text}")

set(strict "")
if(LORA_CUDA_STRICT)
  set(strict -Xptxas=-warn-spills,-warn-lmem-usage)
endif()
# A fifth of the size. Drivers read it from 550.54 on (docs.rapids.ai, "rapids_cuda_enable_fatbin_compression"), which
# CUDA 13 asks for anyway and CUDA 12 does not.
set(compress "")
execute_process(COMMAND ${LORA_NVCC} --version OUTPUT_VARIABLE words ERROR_QUIET)
if(words MATCHES "release ([0-9]+)\\." AND CMAKE_MATCH_1 GREATER_EQUAL 13)
  set(compress --compress-mode=size)
endif()
set(LORA_NVCC_FLAGS -std=c++20 -O3 -ccbin=${CMAKE_CXX_COMPILER} --expt-relaxed-constexpr -Werror all-warnings
  ${strict} ${compress} -Xcompiler=-fPIC,-fvisibility=hidden,-fvisibility-inlines-hidden
  -I${PROJECT_SOURCE_DIR}/native ${gencode})

# Whether this nvcc can: it may be too old for an architecture, or know nothing of the host's compiler.
set(key "${LORA_NVCC} ${LORA_NVCC_FLAGS}")
if(NOT LORA_CUDA_CHECKED STREQUAL key)
  file(WRITE ${CMAKE_BINARY_DIR}/cuda/check.cu "#include <vector>\n__global__ void Check(int* p) { *p = 1; }\n")
  execute_process(COMMAND ${LORA_NVCC} ${LORA_NVCC_FLAGS} -c ${CMAKE_BINARY_DIR}/cuda/check.cu
      -o ${CMAKE_BINARY_DIR}/cuda/check.o
    OUTPUT_VARIABLE words ERROR_VARIABLE words RESULT_VARIABLE failed)
  if(failed)
    lora_cuda_missing("${LORA_NVCC} fails on an empty kernel for ${LORA_CUDA_ARCHITECTURES_TEXT}:\n${words}")
    return()
  endif()
  set(LORA_CUDA_CHECKED ${key} CACHE INTERNAL "")
endif()
set(LORA_CUDA_FOUND TRUE)
message(STATUS "CUDA backend: ${LORA_NVCC}, ${LORA_CUDA_ARCHITECTURES_TEXT}")

set(nvcc_launcher "")
if(CCACHE)
  # ccache would preprocess for the host alone and miss what a header says under __CUDA_ARCH__: with DEPEND it compares
  # the files themselves instead.
  set(nvcc_launcher ${CMAKE_COMMAND} -E env CCACHE_DEPEND=1 CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} ${CCACHE})
endif()
set(LORA_NVCC_COMMAND ${nvcc_launcher} ${LORA_NVCC} ${LORA_NVCC_FLAGS})
if(LORA_CUDA_KEEP)
  list(PREPEND LORA_NVCC_COMMAND bash ${PROJECT_SOURCE_DIR}/scripts/nvcc-keep.sh)
endif()
# Changes when the command does, so that objects are made anew.
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/cuda/command.txt CONTENT "${LORA_NVCC_COMMAND}\n" @ONLY)

function(lora_cuda_object source out)
  get_filename_component(name ${source} NAME)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.o)
  add_custom_command(OUTPUT ${object}
    COMMAND ${LORA_NVCC_COMMAND} -MD -MT ${object} -MF ${object}.d -c ${source} -o ${object}
    DEPENDS ${source} ${CMAKE_BINARY_DIR}/cuda/command.txt
    DEPFILE ${object}.d
    COMMENT "Compiling ${name} for ${LORA_CUDA_ARCHITECTURES_TEXT}"
    VERBATIM)
  set_source_files_properties(${object} PROPERTIES GENERATED TRUE EXTERNAL_OBJECT TRUE)
  set(${out} ${object} PARENT_SCOPE)
endfunction()
