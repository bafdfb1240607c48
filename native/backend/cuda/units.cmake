# Kernels are compiled in units, by the letters with which their files begin, but for those that take long alone: what
# nvcc, and the emulator's compiler, do for any file takes longer than the others.
set(LORA_CUDA_ALONE "attention|cross_entropy|decode|gemm|linear_cross_entropy|lora_linear|matmul|sample|skinny")
set(LORA_CUDA_UNITS a-d e-p q-z)
foreach(unit ${LORA_CUDA_UNITS})
  file(GLOB files RELATIVE ${CMAKE_CURRENT_LIST_DIR} CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/[${unit}]*.cu)
  list(FILTER files EXCLUDE REGEX "^(${LORA_CUDA_ALONE})")
  set(LORA_CUDA_UNIT_${unit} ${files})
endforeach()
