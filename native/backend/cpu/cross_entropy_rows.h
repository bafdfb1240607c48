// cross_entropy and linear_cross_entropy share these functions on rows of logits.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "core/ops/labels.h"
#include "core/ops/tensor_view.h"

namespace lora::cpu {

// Holds Σ exp of the logits seen so far as sum·exp(max), so that it cannot overflow.
struct LogSum {
  float max = -std::numeric_limits<float>::infinity();
  double sum = 0;
  double Log() const {
    if (max == std::numeric_limits<float>::infinity()) return max;  // `sum` holds exp(∞ − ∞)
    return static_cast<double>(max) + std::log(sum);
  }
};

// Adds n logits (f32 or bf16) in one pass over memory: f32 within a block, double over the blocks.
void AddLogits(const void* logits, DType dtype, size_t n, LogSum& total);

// Does so for at most kExpBlock logits, and replaces them by exp(logits − base), with the base that
// it returns: the largest logit so far.
constexpr size_t kExpBlock = 4096;
float AddAndExponentiate(float* logits, size_t n, LogSum& total);

// gradient[j] = factor·exponentials[j] − [j == label], as f32 or bf16. With factor exp(base − lse)
// that is the gradient of SoftmaxGradient for g = 1.
void ScaleExponentials(const float* exponentials, size_t n, float factor, size_t label, DType dtype,
                       void* gradient);

// gradient[j] = (exp(logits[j] − lse) − [j == label])·g. A label ≥ n is not among these logits.
// `gradient` has the dtype of `logits` and may be `logits` itself.
void SoftmaxGradient(const void* logits, DType dtype, size_t n, float lse, size_t label, float g,
                     void* gradient);

}  // namespace lora::cpu
