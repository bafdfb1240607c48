// y[i] += x[i]. A thread adds 8 consecutive elements in f32 and rounds each once.
#pragma once

#include "backend/cuda/device/any_elements.cuh"
#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/launch.h"

namespace lora::device {

struct AccumulateParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr int kPerThread = 8;
  AnyInput x;
  AnyOutput y;
  int64_t count;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(AccumulateParams::kThreads, AccumulateParams::kMinBlocks)
    Accumulate(const LORA_GRID_CONSTANT AccumulateParams p) {
  const int64_t first = GlobalIndex<AccumulateParams::kThreads>() * AccumulateParams::kPerThread;
  float x[AccumulateParams::kPerThread], y[AccumulateParams::kPerThread];
  LoadElements(x, p.x, first, p.count);
  LoadElements(y, AnyInput{p.y.data, p.y.dtype}, first, p.count);
  LORA_UNROLL
  for (int j = 0; j < AccumulateParams::kPerThread; ++j) y[j] += x[j];
  StoreElements(p.y, first, p.count, y);
}

}  // namespace lora::device
