// Over rows of d elements:
//   s    = x + addend, or x
//   rstd = 1/√(mean(s²) + eps)
//   y    = s·rstd·w with w = offset + weight
//   dx   = g_sum + rstd·(g·w − x·rstd²·mean(g·w·x))
//
// kThreadsPerRow threads share a row: a warp, so that 8 rows share a block, or the whole block.
// Each pass takes vectors of 16 bytes in turn, and the second one finds the row in L1; a thread
// reads those of the sum that it wrote itself. A thread's
// chain of additions has d / kThreadsPerRow terms; the tree of reduce.cuh adds the threads.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/reduce.cuh"

namespace lora::device {

constexpr int kRmsNormThreads = 256;

template <class X, class W, class Y>
struct RmsNormParams {
  static constexpr int kThreads = kRmsNormThreads, kMinBlocks = 4;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(float);
  static constexpr int kPerThread = 16 / sizeof(Y);  // Y is the narrowest type
  const X* x;
  const Y* addend;  // or null
  const W* weight;
  X* sum;  // where there is an addend
  Y* y;
  float* rstd;  // or null
  int64_t rows, d;
  float eps, offset;
};

template <class X, class W, class Y>
struct RmsNormBackwardParams {
  static constexpr int kThreads = kRmsNormThreads, kMinBlocks = 3;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(float);
  static constexpr int kPerThread = RmsNormParams<X, W, Y>::kPerThread;
  const X* x;
  const W* weight;
  const float* rstd;
  const Y* g;
  const X* g_sum;  // or null
  X* dx;
  Y* d_addend;  // or null
  Y* y;         // may be g, or null
  int64_t rows, d;
  float offset;
};

// The elements of w in a vector of the weight's.
template <int N, class W>
LORA_DEVICE void LoadWeight(float (&w)[N], const W* weight, int64_t first, int64_t d,
                            float offset) {
  LoadElements(w, weight, first, d);
  LORA_UNROLL
  for (int j = 0; j < N; ++j) w[j] += offset;
}

template <class X, class W, class Y, int kThreadsPerRow>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(kRmsNormThreads, (RmsNormParams<X, W, Y>::kMinBlocks))
    RmsNorm(const LORA_GRID_CONSTANT RmsNormParams<X, W, Y> p) {
  LORA_DYNAMIC_SHARED(shared);
  constexpr int kPerThread = RmsNormParams<X, W, Y>::kPerThread;
  constexpr int64_t kStep = int64_t{kThreadsPerRow} * kPerThread;
  const int64_t row =
      int64_t{BlockX()} * (kRmsNormThreads / kThreadsPerRow) + ThreadIndex() / kThreadsPerRow;
  if (row >= p.rows) return;  // false for the whole block where it shares one row
  const X* x_row = p.x + row * p.d;
  const int64_t begin = int64_t{ThreadIndex() % kThreadsPerRow} * kPerThread;
  float x[kPerThread], w[kPerThread];
  float square = 0.0f;
  for (int64_t first = begin; first < p.d; first += kStep) {
    LoadElements(x, x_row, first, p.d);
    if (p.addend) {
      float addend[kPerThread];
      LoadElements(addend, p.addend + row * p.d, first, p.d);
      LORA_UNROLL
      for (int j = 0; j < kPerThread; ++j) x[j] = ToFloat(FromFloat<X>(x[j] + addend[j]));
      StoreElements(p.sum + row * p.d, first, p.d, x);
    }
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j) square = Fma(x[j], x[j], square);
  }
  if (p.addend) x_row = p.sum + row * p.d;
  const float mean = RowSum<kThreadsPerRow>(square, shared) / static_cast<float>(p.d > 0 ? p.d : 1);
  const float rstd = 1.0f / Sqrt(mean + p.eps);
  for (int64_t first = begin; first < p.d; first += kStep) {
    LoadElements(x, x_row, first, p.d);
    LoadWeight(w, p.weight, first, p.d, p.offset);
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j) x[j] *= rstd * w[j];
    StoreElements(p.y + row * p.d, first, p.d, x);
  }
  if (p.rstd && ThreadIndex() % kThreadsPerRow == 0) p.rstd[row] = rstd;
}

template <class X, class W, class Y, int kThreadsPerRow>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(kRmsNormThreads, (RmsNormBackwardParams<X, W, Y>::kMinBlocks))
    RmsNormBackward(const LORA_GRID_CONSTANT RmsNormBackwardParams<X, W, Y> p) {
  LORA_DYNAMIC_SHARED(shared);
  constexpr int kPerThread = RmsNormBackwardParams<X, W, Y>::kPerThread;
  constexpr int64_t kStep = int64_t{kThreadsPerRow} * kPerThread;
  const int64_t row =
      int64_t{BlockX()} * (kRmsNormThreads / kThreadsPerRow) + ThreadIndex() / kThreadsPerRow;
  if (row >= p.rows) return;
  const X* x_row = p.x + row * p.d;
  const Y* g_row = p.g + row * p.d;
  const int64_t begin = int64_t{ThreadIndex() % kThreadsPerRow} * kPerThread;
  float x[kPerThread], g[kPerThread], w[kPerThread];
  float sum = 0.0f;
  for (int64_t first = begin; first < p.d; first += kStep) {
    LoadElements(x, x_row, first, p.d);
    LoadElements(g, g_row, first, p.d);
    LoadWeight(w, p.weight, first, p.d, p.offset);
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j) sum = Fma(g[j] * w[j], x[j], sum);
  }
  const float rstd = p.rstd[row];
  const float pull =
      rstd * rstd * (RowSum<kThreadsPerRow>(sum, shared) / static_cast<float>(p.d > 0 ? p.d : 1));
  for (int64_t first = begin; first < p.d; first += kStep) {
    LoadElements(x, x_row, first, p.d);
    LoadElements(g, g_row, first, p.d);
    LoadWeight(w, p.weight, first, p.d, p.offset);
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j) g[j] = rstd * (g[j] * w[j] - x[j] * pull);
    if (p.y) {
      LORA_UNROLL
      for (int j = 0; j < kPerThread; ++j) x[j] *= rstd * w[j];
      StoreElements(p.y + row * p.d, first, p.d, x);
    }
    if (p.g_sum) {
      LoadElements(x, p.g_sum + row * p.d, first, p.d);
      LORA_UNROLL
      for (int j = 0; j < kPerThread; ++j) g[j] += x[j];
    }
    StoreElements(p.dx + row * p.d, first, p.d, g);
    if (p.d_addend) StoreElements(p.d_addend + row * p.d, first, p.d, g);
  }
}

}  // namespace lora::device
