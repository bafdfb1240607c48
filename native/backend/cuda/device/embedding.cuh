// y[i] = weight[ids[i]], bit for bit: T is the storage of an element and is not converted. A block
// copies one row, and a thread copies 16 bytes at a time where both rows allow it.
#pragma once

#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/rows.cuh"

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
  CopyRow<EmbeddingParams<T>::kThreads>(p.y + BlockX() * p.dim, p.weight + p.ids[BlockX()] * p.dim,
                                        p.dim);
}

}  // namespace lora::device
