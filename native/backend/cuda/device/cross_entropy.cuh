// lse     = log Σ exp(logits), the losses of rows lse − logits[label], and their sum
// entropy = Σ p·(lse − logits) of a row, p = exp(logits − lse)
// dlogits = (exp(logits − lse) − onehot(label))·g, times the slope of capped logits, and 0 in rows
//           that do not count
//
// Forward has a block per row, which it reads once (softmax.cuh), or a warp per row of parts that
// the product of the logits left (gemm_row_sums.cuh). Backward has a block per 8192 columns of a
// row.
#pragma once

#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/reduce.cuh"
#include "backend/cuda/device/rows.cuh"
#include "backend/cuda/device/softmax.cuh"
#include "core/ops/labels.h"

namespace lora::device {

template <class T>
struct SoftmaxLossParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(float);
  const T* logits;  // [rows, vocab]
  int64_t vocab, pitch;
  const int32_t* labels;  // [rows]
  double* losses;         // [rows]
  float* lse;             // [rows], or null
  bool every_lse;         // lse is written in rows that do not count, too
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(SoftmaxLossParams<T>::kThreads,
                                    SoftmaxLossParams<T>::kMinBlocks)
    SoftmaxLoss(const LORA_GRID_CONSTANT SoftmaxLossParams<T> p) {
  constexpr int kThreads = SoftmaxLossParams<T>::kThreads;
  LORA_DYNAMIC_SHARED(shared);
  float* slots = reinterpret_cast<float*>(shared);
  const int64_t row = BlockX();
  const int32_t label = p.labels[row];
  const bool counts = label != kIgnoredLabel;
  if (!counts && !p.every_lse) {
    if (ThreadIndex() == 0) p.losses[row] = 0;
    return;
  }

  const T* logits = p.logits + row * p.pitch;
  const double lse = BlockLogSum<kThreads>(logits, FirstVector(logits), p.vocab, slots);
  if (ThreadIndex() != 0) return;
  if (p.lse != nullptr) p.lse[row] = static_cast<float>(lse);
  p.losses[row] = counts ? lse - ToFloat(logits[label]) : 0;
}

// lse and losses from the parts of rows: a lane takes every 32nd part.
struct RowLossParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  const FloatPair* parts;  // [rows, count]: the largest logit, Σ exp(logit − largest)
  const float* logits;     // [rows, vocab]
  int64_t rows, count, pitch;
  const int32_t* labels;  // [rows], all of which count
  double* losses;         // [rows]
  float* lse;             // [rows]
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(RowLossParams::kThreads, RowLossParams::kMinBlocks)
    RowLoss(const LORA_GRID_CONSTANT RowLossParams p) {
  const int64_t row = int64_t{BlockX()} * (RowLossParams::kThreads / 32) + WarpIndex();
  if (row >= p.rows) return;
  const FloatPair* const parts = p.parts + row * p.count;
  float largest = BitsToFloat(kMinusInfinityBits), sum = 0;
  for (int64_t i = LaneIndex(); i < p.count; i += 32) largest = Max()(largest, parts[i].low);
  largest = WarpReduce(largest, Max());
  const float base = IsInfinite(largest) ? 0.0f : largest;
  for (int64_t i = LaneIndex(); i < p.count; i += 32)
    sum += parts[i].high * Exp(parts[i].low - base);
  sum = WarpSum(sum);
  if (LaneIndex() != 0) return;
  double lse = largest;
  if (!IsInfinite(largest)) lse += Log(static_cast<double>(sum));
  p.lse[row] = static_cast<float>(lse);
  p.losses[row] = lse - p.logits[row * p.pitch + p.labels[row]];
}

// What is said of each row. A block reads a row, where its entropy is wanted.
template <class T>
struct RowValuesParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(float);
  const T* logits;  // [rows, vocab]
  int64_t vocab, pitch;
  const int32_t* labels;  // [rows]
  const double* losses;   // [rows]
  const float* lse;       // [rows], or null without entropies
  const int32_t* list;    // [rows], where each row goes, or null
  float* losses_to;       // or null
  float* entropies_to;    // or null
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(RowValuesParams<T>::kThreads, RowValuesParams<T>::kMinBlocks)
    StoreRowValues(const LORA_GRID_CONSTANT RowValuesParams<T> p) {
  constexpr int kThreads = RowValuesParams<T>::kThreads, kN = 8;
  LORA_DYNAMIC_SHARED(shared);
  const int64_t row = BlockX(), to = p.list != nullptr ? p.list[row] : row;
  const bool counts = p.labels[row] != kIgnoredLabel;
  if (p.losses_to != nullptr && ThreadIndex() == 0)
    p.losses_to[to] = static_cast<float>(p.losses[row]);
  if (p.entropies_to == nullptr) return;
  float entropy = 0;
  if (counts) {
    const T* logits = p.logits + row * p.pitch;
    const float lse = p.lse[row];
    for (int64_t i = FirstVector(logits) + ThreadIndex() * kN; i < p.vocab; i += kThreads * kN) {
      float x[kN];
      LoadOfRow(x, logits, i, p.vocab, BitsToFloat(kMinusInfinityBits));
      LORA_UNROLL
      for (int j = 0; j < kN; ++j) {
        const float probability = Exp(x[j] - lse);
        if (probability != 0) entropy += probability * (lse - x[j]);  // 0·∞ of an excluded token
      }
    }
    entropy = BlockSum<kThreads>(entropy, reinterpret_cast<float*>(shared));
  }
  if (ThreadIndex() == 0) p.entropies_to[to] = entropy;
}

// loss = Σ losses, always in the same order. The host knows how many rows counted and passes it.
struct SumLossesParams {
  static constexpr int kThreads = 512, kMinBlocks = 1;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(double);
  const double* losses;
  int64_t rows;
  float* loss;
  float* count;
  float counted;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(SumLossesParams::kThreads, SumLossesParams::kMinBlocks)
    SumLosses(const LORA_GRID_CONSTANT SumLossesParams p) {
  LORA_DYNAMIC_SHARED(shared);
  double sum = 0;
  for (int64_t row = ThreadIndex(); row < p.rows; row += SumLossesParams::kThreads)
    sum += p.losses[row];
  sum = BlockSum<SumLossesParams::kThreads>(sum, reinterpret_cast<double*>(shared));
  if (ThreadIndex() == 0) {
    *p.loss = static_cast<float>(sum);
    *p.count = p.counted;
  }
}

template <class T, class Gradient>
struct SoftmaxGradientParams {
  static constexpr int kThreads = 256, kMinBlocks = 4, kColumns = 8192;
  const T* logits;  // [rows, vocab]
  int64_t vocab, pitch;
  const int32_t* labels;  // [rows]
  const float* lse;       // [rows]
  const float* g;         // [1], or null: 1
  int64_t g_step;         // 1 where g is [rows]
  float scale;            // of the gradient beside g
  float cap;              // of the logits, by whose slope the gradient is multiplied; 0: none
  Gradient* dlogits;      // [rows, vocab]; may be the logits
  int64_t dlogits_pitch;
};

template <class T, class Gradient>
LORA_KERNEL void LORA_LAUNCH_BOUNDS((SoftmaxGradientParams<T, Gradient>::kThreads),
                                    (SoftmaxGradientParams<T, Gradient>::kMinBlocks))
    SoftmaxGradient(const LORA_GRID_CONSTANT SoftmaxGradientParams<T, Gradient> p) {
  using P = SoftmaxGradientParams<T, Gradient>;
  constexpr int kN = 8;
  const int64_t row = BlockX();
  const int32_t label = p.labels[row];
  const bool counts = label != kIgnoredLabel;
  const float lse = counts ? p.lse[row] : 0,
              g = p.g != nullptr ? p.g[row * p.g_step] * p.scale : p.scale;
  const T* logits = p.logits + row * p.pitch;
  Gradient* dlogits = p.dlogits + row * p.dlogits_pitch;
  const int64_t begin = FirstVector(logits) + int64_t{BlockY()} * P::kColumns;
  for (int64_t i = begin + ThreadIndex() * kN; i < begin + P::kColumns && i < p.vocab;
       i += P::kThreads * kN) {
    float x[kN] = {};
    if (counts) {
      LoadOfRow(x, logits, i, p.vocab, 0);
      LORA_UNROLL
      for (int j = 0; j < kN; ++j) {
        const float part = p.cap != 0 ? x[j] / p.cap : 0;
        x[j] = (Exp(x[j] - lse) - (i + j == label ? 1.0f : 0.0f)) * g;
        if (p.cap != 0) x[j] *= Fma(-part, part, 1);
      }
    }
    StoreOfRow(dlogits, i, p.vocab, x);
  }
}

}  // namespace lora::device
