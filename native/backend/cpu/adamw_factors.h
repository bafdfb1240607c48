// The numbers of one AdamW step that are the same for every element.
#pragma once

namespace lora::cpu {

struct AdamWFactors {
  float decay;              // 1 − lr·weight_decay
  float beta1, new1;        // β1, 1 − β1
  float beta2, new2;        // β2, 1 − β2
  float rsqrt_correction2;  // 1/√(1 − β2^step)
  float eps;
  float step_size;  // lr/(1 − β1^step)
};

}  // namespace lora::cpu
