// Of each row of d elements
//   max     = its largest element, the first NaN where there is one
//   index   = where that is, of equal ones the first
//   log_sum = ln Σ exp(x − max)
//
// kThreadsPerRow threads share a row: a warp, so that 8 rows share a block, or the whole block. A
// thread keeps the largest key of its elements: the order of the floats in the high word, NaN above
// all, and the place from the end in the low one. The pass for the sum finds the row in L1.
#pragma once

#include "backend/cuda/device/any_elements.cuh"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/reduce.cuh"

namespace lora::device {

struct RowMaxParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(uint64_t);
  static constexpr int kPerThread = 8;
  AnyInput x;
  float* max;      // or null
  int32_t* index;  // or null
  float* log_sum;  // or null
  int64_t rows, d;
};

// Returns a number that is larger for a larger x, the same for 0 and −0, and the largest for NaN.
LORA_DEVICE uint32_t OrderedBits(float x) {
  if (!(x == x)) return 0xffffffffu;
  const uint32_t bits = x == 0.0f ? 0u : FloatToBits(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

template <int kThreadsPerRow>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(RowMaxParams::kThreads, RowMaxParams::kMinBlocks)
    RowMax(const LORA_GRID_CONSTANT RowMaxParams p) {
  LORA_DYNAMIC_SHARED(shared);
  constexpr int kPerThread = RowMaxParams::kPerThread;
  constexpr int64_t kStep = int64_t{kThreadsPerRow} * kPerThread;
  const int64_t row = int64_t{BlockX()} * (RowMaxParams::kThreads / kThreadsPerRow) +
                      ThreadIndex() / kThreadsPerRow;
  if (row >= p.rows) return;  // false for the whole block where it shares one row
  const int64_t at = row * p.d, begin = int64_t{ThreadIndex() % kThreadsPerRow} * kPerThread;
  float x[kPerThread];
  uint64_t key = 0;
  for (int64_t first = begin; first < p.d; first += kStep) {
    LoadElements(x, p.x, at + first, at + p.d);
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j) {
      const uint32_t from_end = 0xffffffffu - static_cast<uint32_t>(first + j);
      const uint64_t mine = uint64_t{OrderedBits(x[j])} << 32 | from_end;
      if (first + j < p.d && mine > key) key = mine;
    }
  }
  if constexpr (kThreadsPerRow == 32) {
    key = WarpMax(key);
  } else {
    key = BlockMax<kThreadsPerRow>(key, reinterpret_cast<uint64_t*>(shared));
  }
  const uint32_t index = 0xffffffffu - static_cast<uint32_t>(key);
  const float max = LoadElement(p.x, at + index);
  float sum = 0.0f;
  if (p.log_sum) {
    for (int64_t first = begin; first < p.d; first += kStep) {
      LoadElements(x, p.x, at + first, at + p.d);
      LORA_UNROLL
      for (int j = 0; j < kPerThread; ++j) sum += first + j < p.d ? Exp(x[j] - max) : 0.0f;
    }
    sum = RowSum<kThreadsPerRow>(sum, shared);
  }
  if (ThreadIndex() % kThreadsPerRow != 0) return;
  if (p.max) p.max[row] = max;
  if (p.index) p.index[row] = static_cast<int32_t>(index);
  if (p.log_sum) p.log_sum[row] = Log(sum);
}

}  // namespace lora::device
