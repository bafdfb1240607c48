// y[i] = weight[ids[i]], bit for bit; T is the storage of an element, not a number. A block copies
// one row, a thread 16 bytes at a time where both rows allow it.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/launch.h"

namespace lora::device {

template <class T>
struct EmbeddingParams {
  static constexpr int kThreads = 128, kMinBlocks = 8;
  const T* weight;  // [vocab, dim]
  const int32_t* ids;
  T* y;  // [n, dim]
  int64_t dim;
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(EmbeddingParams<T>::kThreads, EmbeddingParams<T>::kMinBlocks)
    Embedding(const LORA_GRID_CONSTANT EmbeddingParams<T> p) {
  constexpr int kThreads = EmbeddingParams<T>::kThreads, kPerVector = 16 / sizeof(T);
  const T* from = p.weight + p.ids[BlockX()] * p.dim;
  T* to = p.y + BlockX() * p.dim;
  int64_t vectors = 0;
  if (IsAligned16(from) && IsAligned16(to)) {
    vectors = p.dim / kPerVector;
    for (int64_t v = ThreadIndex(); v < vectors; v += kThreads)
      StoreGlobal16(to + v * kPerVector, LoadGlobal16(from + v * kPerVector));
  }
  for (int64_t i = vectors * kPerVector + ThreadIndex(); i < p.dim; i += kThreads) to[i] = from[i];
}

}  // namespace lora::device
