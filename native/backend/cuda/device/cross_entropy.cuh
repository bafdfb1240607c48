// lse     = log Σ exp(logits), the losses of rows lse − logits[label], and their sum
// entropy = Σ p·(lse − logits) of a row, p = exp(logits − lse)
// dlogits = (exp(logits − lse) − onehot(label))·g, times the slope of capped logits, and 0 in rows
//           that do not count
//
// Forward has a block per row, which it reads once (softmax.cuh), or a warp per row of parts that
// the product of the logits left (gemm_logits.cuh). Backward has a block per 8192 columns of a row.
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

// Losses and entropies from the parts of rows that all count: a lane takes every 32nd part. What
// the gradient needs takes the place of what is read: of the largest logit m of a part its factor
// scale·exp(m − lse), and of the label's logit its gradient.
struct RowLossParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  RowPart* parts;       // [rows, count]
  float* label_logits;  // [rows]
  int64_t rows, count;
  const int32_t* list;  // [rows], where each row of losses_to and entropies_to is
  double* losses;       // [rows]
  float* losses_to;     // or null, as is entropies_to
  float* entropies_to;
  float scale, cap;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(RowLossParams::kThreads, RowLossParams::kMinBlocks)
    RowLoss(const LORA_GRID_CONSTANT RowLossParams p) {
  const int64_t row = int64_t{BlockX()} * (RowLossParams::kThreads / 32) + WarpIndex();
  if (row >= p.rows) return;
  RowPart* const parts = p.parts + row * p.count;
  float largest = BitsToFloat(kMinusInfinityBits), sum = 0, entropy = 0;
  for (int64_t i = LaneIndex(); i < p.count; i += 32) largest = Max()(largest, parts[i].largest);
  largest = WarpMax(largest);
  const float base = IsInfinite(largest) ? 0.0f : largest;
  for (int64_t i = LaneIndex(); i < p.count; i += 32)
    sum += parts[i].sum * Exp(parts[i].largest - base);
  sum = WarpSum(sum);
  double lse = largest;
  if (!IsInfinite(largest)) lse += Log(static_cast<double>(sum));
  const float rounded = static_cast<float>(lse);
  for (int64_t i = LaneIndex(); i < p.count; i += 32) {
    const RowPart part = parts[i];
    const float factor = Exp(part.largest - rounded);
    // Σ p·(lse − l), whose terms are all positive.
    if (factor != 0) entropy += factor * (part.sum * (rounded - part.largest) - part.weighted);
    parts[i].largest = p.scale * factor;
  }
  entropy = WarpSum(entropy);
  if (LaneIndex() != 0) return;
  const float logit = p.label_logits[row];
  const double loss = lse - logit;
  p.label_logits[row] = p.scale * (Exp(logit - rounded) - 1) * SlopeOfCapped(logit, p.cap);
  p.losses[row] = loss;
  if (p.losses_to != nullptr) p.losses_to[p.list[row]] = static_cast<float>(loss);
  if (p.entropies_to != nullptr) p.entropies_to[p.list[row]] = entropy;
}

// exponentials ← gradients of the logits: those of each part times its factor, and that of the
// label, as RowLoss left them.
template <class T>
struct RowGradientParams {
  static constexpr int kThreads = 256, kMinBlocks = 4, kColumns = 8192;
  const RowPart* parts;          // [rows, count], of `part_columns` columns each
  const float* label_gradients;  // [rows]
  const int32_t* labels;         // [rows], all of which count
  int64_t count, vocab;
  T* exponentials;  // [rows, vocab]
  int64_t pitch;    // a multiple of 8, as part_columns
  uint32_t part_columns;
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(RowGradientParams<T>::kThreads,
                                    RowGradientParams<T>::kMinBlocks)
    RowGradient(const LORA_GRID_CONSTANT RowGradientParams<T> p) {
  using P = RowGradientParams<T>;
  constexpr int kN = 8;
  const int64_t row = BlockX(), begin = int64_t{BlockY()} * P::kColumns;
  const int32_t label = p.labels[row];
  T* values = p.exponentials + row * p.pitch;
  for (int64_t i = begin + ThreadIndex() * kN; i < begin + P::kColumns && i < p.vocab;
       i += P::kThreads * kN) {
    const float factor = p.parts[row * p.count + static_cast<uint32_t>(i) / p.part_columns].largest;
    float x[kN];
    LoadOfRow(x, values, i, p.vocab, 0);
    LORA_UNROLL
    for (int j = 0; j < kN; ++j) x[j] = i + j == label ? p.label_gradients[row] : x[j] * factor;
    StoreOfRow(values, i, p.vocab, x);
  }
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

template <class T>
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
  T* dlogits;             // [rows, vocab]; may be the logits
  int64_t dlogits_pitch;
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(SoftmaxGradientParams<T>::kThreads,
                                    SoftmaxGradientParams<T>::kMinBlocks)
    SoftmaxGradient(const LORA_GRID_CONSTANT SoftmaxGradientParams<T> p) {
  using P = SoftmaxGradientParams<T>;
  constexpr int kN = 8;
  const int64_t row = BlockX();
  const int32_t label = p.labels[row];
  const bool counts = label != kIgnoredLabel;
  const float lse = counts ? p.lse[row] : 0,
              g = p.g != nullptr ? p.g[row * p.g_step] * p.scale : p.scale;
  const T* logits = p.logits + row * p.pitch;
  T* dlogits = p.dlogits + row * p.dlogits_pitch;
  const int64_t begin = FirstVector(logits) + int64_t{BlockY()} * P::kColumns;
  for (int64_t i = begin + ThreadIndex() * kN; i < begin + P::kColumns && i < p.vocab;
       i += P::kThreads * kN) {
    float x[kN] = {};
    if (counts) {
      LoadOfRow(x, logits, i, p.vocab, 0);
      LORA_UNROLL
      for (int j = 0; j < kN; ++j) {
        const float slope = SlopeOfCapped(x[j], p.cap);
        x[j] = (Exp(x[j] - lse) - (i + j == label ? 1.0f : 0.0f)) * g * slope;
      }
    }
    StoreOfRow(dlogits, i, p.vocab, x);
  }
}

}  // namespace lora::device
