// y = x·scale where the mask keeps an element, else 0 (core/maths/philox.h). A thread takes the 8
// columns of one Philox call.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/launch.h"
#include "core/maths/ceil_div.h"
#include "core/maths/philox.h"

namespace lora::device {

template <class T>
struct DropoutParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr int kPerThread = 8;
  const T* x;
  T* y;
  int64_t rows, columns;
  uint64_t seed;
  uint32_t layer, forward, threshold;
  float scale;
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(DropoutParams<T>::kThreads, DropoutParams<T>::kMinBlocks)
    DropRows(const LORA_GRID_CONSTANT DropoutParams<T> p) {
  constexpr int kPerThread = DropoutParams<T>::kPerThread;
  const int64_t per_row = CeilDiv(p.columns, int64_t{kPerThread});
  const Division at = Divide(GlobalIndex<DropoutParams<T>::kThreads>(), per_row);
  const int64_t row = at.quotient, first = at.remainder * kPerThread;
  if (row >= p.rows) return;
  const PhiloxWords words = Philox4x32(p.seed, {static_cast<uint32_t>(at.remainder),
                                                static_cast<uint32_t>(row), p.layer, p.forward});
  float values[kPerThread];
  LoadElements(values, p.x + row * p.columns, first, p.columns);
  LORA_UNROLL
  for (int j = 0; j < kPerThread; ++j)
    values[j] = DropoutKeeps(words, j, p.threshold) ? values[j] * p.scale : 0.0f;
  StoreElements(p.y + row * p.columns, first, p.columns, values);
}

}  // namespace lora::device
