// y[i] = value. A thread writes one vector of 16 bytes, and the last thread writes what is left.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/launch.h"

namespace lora::device {

template <class T>
struct FillParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr int kPerThread = 16 / sizeof(T);
  T* y;
  int64_t count;
  float value;
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(FillParams<T>::kThreads, FillParams<T>::kMinBlocks)
    Fill(const LORA_GRID_CONSTANT FillParams<T> p) {
  constexpr int kPerThread = FillParams<T>::kPerThread;
  const int64_t first = (int64_t{BlockX()} * FillParams<T>::kThreads + ThreadIndex()) * kPerThread;
  float values[kPerThread];
  LORA_UNROLL
  for (int j = 0; j < kPerThread; ++j) values[j] = p.value;
  StoreElements(p.y, first, p.count, values);
}

}  // namespace lora::device
