// Rows of logits: what cross_entropy and linear_cross_entropy share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/tensor_view.h"

namespace lora::cpu {

constexpr int32_t kIgnoredLabel = -100;

// How many labels count. Throws ERR_DATA for a label that is neither −100 nor in [0, vocab).
size_t CountLabels(const char* op, const TensorView& labels, int64_t vocab);
// The same, and throws when none counts.
size_t RequireLabels(const char* op, const TensorView& labels, int64_t vocab);

// log Σ exp of n logits (f32 or bf16); one pass over memory, the sum in double over blocks in f32.
double LogSumExp(const void* logits, DType dtype, size_t n);

// gradient[j] = (exp(logits[j] − lse) − [j == label])·g; may be in place. Same dtype.
void SoftmaxGradient(const void* logits, DType dtype, size_t n, float lse, size_t label, float g,
                     void* gradient);

}  // namespace lora::cpu
