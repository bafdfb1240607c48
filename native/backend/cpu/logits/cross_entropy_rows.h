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

// Does so for at most kExpBlock logits, and writes exp(logits − base) as f32 or bf16, with the base
// that it returns: the largest logit so far.
constexpr size_t kExpBlock = 2048;
float AddAndExponentiate(const float* logits, size_t n, LogSum& total, DType dtype,
                         void* exponentials);

// Holds the sums of p and of p·logit of the logits seen so far, relative to the largest one.
struct EntropySum {
  float max = -std::numeric_limits<float>::infinity();
  double sum = 0, weighted = 0;  // Σ exp(logit − max), Σ exp(logit − max)·(logit − max)
  double Entropy() const { return std::log(sum) - weighted / sum; }
};

// Adds n logits.
void AddEntropy(const void* logits, DType dtype, size_t n, EntropySum& total);

// linear_cross_entropy keeps exponentials of so many rows at once: enough to pay for reading and
// transposing W, and few enough for the memory of a laptop.
constexpr size_t kChunkBytes = size_t{96} << 20, kMinChunk = 16, kMaxChunk = 512;

// dst[j] = factor·src[j], both f32 or both bf16. `dst` may be `src`.
void ScaleRow(const void* src, DType dtype, size_t n, float factor, void* dst);

// logits[j] ← cap·tanh(logits[j] / cap)
void CapRow(float* logits, size_t n, float cap);

// values[j] ← values[j]·(1 − (logits[j] / cap)²): times the slope of capped logits. f32 or bf16.
void TimesCapSlopes(const float* logits, size_t n, float cap, DType dtype, void* values);

// gradient[j] = (exp(logits[j] − lse) − [j == label])·g. A label ≥ n is not among these logits.
// `gradient` has the dtype of `logits` and may be `logits` itself.
void SoftmaxGradient(const void* logits, DType dtype, size_t n, float lse, size_t label, float g,
                     void* gradient);

}  // namespace lora::cpu
