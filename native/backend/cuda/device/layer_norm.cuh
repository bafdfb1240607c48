// Over rows of d elements:
//   mean = Σ x/d,  rstd = 1/√(Σ (x − mean)²/d + eps),  n = (x − mean)·rstd
//   y    = n·weight + bias
//   dx   = rstd·(g·weight − mean(g·weight) − n·mean(g·weight·n))
//
// kThreadsPerRow threads share a row: a warp, so that 8 rows share a block, or the whole block.
// In each pass a thread takes 8 elements in turn, whatever the dtypes; later passes find the row in
// L1.
#pragma once

#include "backend/cuda/device/any_elements.cuh"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/reduce.cuh"

namespace lora::device {

struct LayerNormParams {
  static constexpr int kThreads = 256, kMinBlocks = 3;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(float);
  static constexpr int kPerThread = 8;
  AnyInput x, weight, bias;
  AnyOutput y;
  float *mean, *rstd;  // or null
  int64_t rows, d;
  float eps;
};

struct LayerNormBackwardParams {
  static constexpr int kThreads = LayerNormParams::kThreads, kMinBlocks = 3;
  static constexpr size_t kSharedBytes = LayerNormParams::kSharedBytes;
  static constexpr int kPerThread = LayerNormParams::kPerThread;
  AnyInput x, weight, g;
  AnyOutput dx;
  const float *mean, *rstd;
  int64_t rows, d;
};

template <int kThreadsPerRow>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(LayerNormParams::kThreads, LayerNormParams::kMinBlocks)
    LayerNorm(const LORA_GRID_CONSTANT LayerNormParams p) {
  LORA_DYNAMIC_SHARED(shared);
  constexpr int kPerThread = LayerNormParams::kPerThread;
  constexpr int64_t kStep = int64_t{kThreadsPerRow} * kPerThread;
  const int64_t row = int64_t{BlockX()} * (LayerNormParams::kThreads / kThreadsPerRow) +
                      ThreadIndex() / kThreadsPerRow;
  if (row >= p.rows) return;  // false for the whole block where it shares one row
  const int64_t at = row * p.d, begin = int64_t{ThreadIndex() % kThreadsPerRow} * kPerThread;
  const float count = static_cast<float>(p.d > 0 ? p.d : 1);
  float x[kPerThread], weight[kPerThread], bias[kPerThread];
  float sum = 0.0f, square = 0.0f;
  for (int64_t first = begin; first < p.d; first += kStep) {
    LoadElements(x, p.x, at + first, at + p.d);
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j) sum += x[j];
  }
  const float mean = RowSum<kThreadsPerRow>(sum, shared) / count;
  for (int64_t first = begin; first < p.d; first += kStep) {
    LoadElements(x, p.x, at + first, at + p.d);
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j) {
      const float deviation = first + j < p.d ? x[j] - mean : 0.0f;
      square = Fma(deviation, deviation, square);
    }
  }
  const float rstd = 1.0f / Sqrt(RowSum<kThreadsPerRow>(square, shared) / count + p.eps);
  for (int64_t first = begin; first < p.d; first += kStep) {
    LoadElements(x, p.x, at + first, at + p.d);
    LoadElements(weight, p.weight, first, p.d);
    LoadElements(bias, p.bias, first, p.d);
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j) x[j] = Fma((x[j] - mean) * rstd, weight[j], bias[j]);
    StoreElements(p.y, at + first, at + p.d, x);
  }
  if (ThreadIndex() % kThreadsPerRow != 0) return;
  if (p.mean) p.mean[row] = mean;
  if (p.rstd) p.rstd[row] = rstd;
}

template <int kThreadsPerRow>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(LayerNormBackwardParams::kThreads,
                                    LayerNormBackwardParams::kMinBlocks)
    LayerNormBackward(const LORA_GRID_CONSTANT LayerNormBackwardParams p) {
  LORA_DYNAMIC_SHARED(shared);
  constexpr int kPerThread = LayerNormBackwardParams::kPerThread;
  constexpr int64_t kStep = int64_t{kThreadsPerRow} * kPerThread;
  const int64_t row = int64_t{BlockX()} * (LayerNormBackwardParams::kThreads / kThreadsPerRow) +
                      ThreadIndex() / kThreadsPerRow;
  if (row >= p.rows) return;
  const int64_t at = row * p.d, begin = int64_t{ThreadIndex() % kThreadsPerRow} * kPerThread;
  const float mean = p.mean[row], rstd = p.rstd[row], count = static_cast<float>(p.d);
  float x[kPerThread], g[kPerThread], weight[kPerThread];
  float sum = 0.0f, along = 0.0f;
  for (int64_t first = begin; first < p.d; first += kStep) {
    LoadElements(x, p.x, at + first, at + p.d);
    LoadElements(g, p.g, at + first, at + p.d);
    LoadElements(weight, p.weight, first, p.d);
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j) {
      sum = Fma(g[j], weight[j], sum);
      along = Fma(g[j] * weight[j], x[j] - mean, along);
    }
  }
  sum = RowSum<kThreadsPerRow>(sum, shared) / count;
  along = RowSum<kThreadsPerRow>(along, shared) / count * rstd * rstd;
  for (int64_t first = begin; first < p.d; first += kStep) {
    LoadElements(x, p.x, at + first, at + p.d);
    LoadElements(g, p.g, at + first, at + p.d);
    LoadElements(weight, p.weight, first, p.d);
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j)
      g[j] = rstd * (g[j] * weight[j] - sum - (x[j] - mean) * along);
    StoreElements(p.dx, at + first, at + p.d, g);
  }
}

}  // namespace lora::device
