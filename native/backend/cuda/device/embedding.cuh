// y[i] = weight[ids[i]]. A block copies one row.
//
// Embedding: bit for bit. T is the storage of an element and is not converted; a thread copies 16
// bytes at a time where both rows allow it.
//
// WidenedEmbedding: for a weight that is stored in 16 bits under f32 activations. A thread takes 8
// consecutive elements.
//
// EmbeddingBackward: dw[v] += Σ over the i with ids[i] = v of g[i]. The block of the first place of
// an id adds all of its rows, in their order, and the blocks of its other places end at once: no
// two blocks write one row. Each thread looks at all ids, which lie in cache.
#pragma once

#include "backend/cuda/device/any_elements.cuh"
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

struct WidenedEmbeddingParams {
  static constexpr int kThreads = 128, kMinBlocks = 8, kPerThread = 8;
  AnyInput weight;  // [vocab, dim]
  const int32_t* ids;
  float* y;  // [n, dim]
  int64_t dim;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(WidenedEmbeddingParams::kThreads,
                                    WidenedEmbeddingParams::kMinBlocks)
    WidenedEmbedding(const LORA_GRID_CONSTANT WidenedEmbeddingParams p) {
  using P = WidenedEmbeddingParams;
  const int64_t row = p.ids[BlockX()] * p.dim;
  for (int64_t i = ThreadIndex() * P::kPerThread; i < p.dim; i += P::kThreads * P::kPerThread) {
    float values[P::kPerThread];
    LoadElements(values, p.weight, row + i, row + p.dim);
    StoreElements(p.y + BlockX() * p.dim, i, p.dim, values);
  }
}

struct EmbeddingBackwardParams {
  static constexpr int kThreads = 128, kMinBlocks = 8;
  const float* g;  // [n, dim]
  const int32_t* ids;
  float* dw;  // [vocab, dim]
  int64_t n, dim;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(EmbeddingBackwardParams::kThreads,
                                    EmbeddingBackwardParams::kMinBlocks)
    EmbeddingBackward(const LORA_GRID_CONSTANT EmbeddingBackwardParams p) {
  const int64_t first = BlockX();
  const int32_t id = p.ids[first];
  for (int64_t i = 0; i < first; ++i)
    if (p.ids[i] == id) return;
  for (int64_t j = ThreadIndex(); j < p.dim; j += EmbeddingBackwardParams::kThreads) {
    float sum = p.dw[id * p.dim + j];
    for (int64_t i = first; i < p.n; ++i)
      if (p.ids[i] == id) sum += p.g[i * p.dim + j];
    p.dw[id * p.dim + j] = sum;
  }
}

}  // namespace lora::device
