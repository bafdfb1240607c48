// log softmax(logits) at an id and at the n largest, a block per row. Each of the n largest is
// found by a pass over the row, which takes the first of the largest logits behind the one before.
#pragma once

#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/reduce.cuh"
#include "backend/cuda/device/rows.cuh"
#include "backend/cuda/device/softmax.cuh"

namespace lora::device {

template <class T>
struct LogProbsParams {
  static constexpr int kThreads = 512, kMinBlocks = 2;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(uint64_t);
  const T* logits;  // [rows, vocab]
  int64_t vocab;
  int32_t n;
  const int32_t* ids;  // [rows]
  float* values;       // [rows, 1 + n]
  int32_t* top_ids;    // [rows, 1 + n]
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(LogProbsParams<T>::kThreads, LogProbsParams<T>::kMinBlocks)
    LogProbs(const LORA_GRID_CONSTANT LogProbsParams<T> p) {
  constexpr int kThreads = LogProbsParams<T>::kThreads, kN = 8;
  constexpr int32_t kNone = 0x7fffffff;
  LORA_DYNAMIC_SHARED(shared);
  const int64_t row = BlockX();
  const T* logits = p.logits + row * p.vocab;
  const double lse = BlockLogSum<kThreads>(logits, 0, p.vocab, reinterpret_cast<float*>(shared));
  const auto write = [&](int32_t place, int32_t id) {
    if (ThreadIndex() != 0) return;
    const bool inside = id >= 0 && id < p.vocab;
    p.top_ids[row * (1 + p.n) + place] = id;
    p.values[row * (1 + p.n) + place] =
        inside ? static_cast<float>(static_cast<double>(ToFloat(logits[id])) - lse)
               : BitsToFloat(0x7fc00000u);
  };
  write(0, p.ids[row]);
  Indexed last{BitsToFloat(0x7f800000u), -1};  // every number comes behind it
  for (int32_t place = 1; place <= p.n; ++place) {
    Indexed best{BitsToFloat(kMinusInfinityBits), kNone};
    for (int64_t i = FirstVector(logits) + ThreadIndex() * kN; i < p.vocab; i += kThreads * kN) {
      float x[kN];
      LoadOfRow(x, logits, i, p.vocab, BitsToFloat(0x7fc00000u));
      LORA_UNROLL
      for (int j = 0; j < kN; ++j) {
        const auto id = static_cast<int32_t>(i + j);
        const bool behind = x[j] < last.value || (x[j] == last.value && id > last.index);
        if (behind) best = MaxIndexed()(best, {x[j], id});
      }
    }
    best = BlockReduce<kThreads>(best, reinterpret_cast<Indexed*>(shared), MaxIndexed());
    write(place, best.index == kNone ? -1 : best.index);
    if (best.index != kNone) last = best;
  }
}

}  // namespace lora::device
