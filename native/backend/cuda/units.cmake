# The kernels that are compiled together: what nvcc, and the emulator's compiler, do for any file takes longer than these.
set(LORA_CUDA_UNITS steps elements rows)
set(LORA_CUDA_UNIT_steps accumulate.cu adamw.cu adamw8bit.cu global_norm.cu lion.cu sgd.cu)
set(LORA_CUDA_UNIT_elements binary.cu copy.cu dropout.cu fill.cu random.cu rope.cu swiglu.cu unary.cu)
set(LORA_CUDA_UNIT_rows adjust_logits.cu embedding.cu expand.cu ids.cu log_probs.cu pack.cu page_append.cu quantize.cu reduce_sum.cu
  rms_norm.cu transpose.cu)
