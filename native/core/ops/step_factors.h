// The numbers of one optimizer step that are the same for every element, in f32. The CPU and the
// CUDA backend share them. Each struct's size is a multiple of 8 bytes (device/segments.cuh).
#pragma once

#include <cstdint>

namespace lora {

struct AdamWFactors {
  float decay;              // 1 − lr·weight_decay
  float beta1, new1;        // β1, 1 − β1
  float beta2, new2;        // β2, 1 − β2
  float rsqrt_correction2;  // 1/√(1 − β2^step)
  float eps;
  float step_size;  // lr/(1 − β1^step)
};

struct SgdFactors {
  float lr, momentum, weight_decay;
  uint32_t nesterov;  // 0 or 1
};

struct LionFactors {
  float lr;
  float decay;                   // 1 − lr·weight_decay
  float blend, blend_new;        // β1, 1 − β1
  float momentum, momentum_new;  // β2, 1 − β2
};

}  // namespace lora
