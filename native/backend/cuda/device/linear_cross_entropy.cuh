// Gathers the rows of a loss that count, and puts them back. The products and the softmax in
// between are those of gemm.h and cross_entropy.h.
#pragma once

#include "backend/cuda/device/kinds.cuh"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/reduce.cuh"
#include "backend/cuda/device/rows.cuh"

namespace lora::device {

// rows ← the numbers of the rows whose label is not `ignored`, rising. One block does it.
struct ListRowsParams {
  static constexpr int kThreads = 512, kMinBlocks = 1;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(int32_t);
  const int32_t* labels;
  int32_t count, ignored;
  int32_t* rows;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(ListRowsParams::kThreads, ListRowsParams::kMinBlocks)
    ListRows(const LORA_GRID_CONSTANT ListRowsParams p) {
  constexpr int kThreads = ListRowsParams::kThreads;
  LORA_DYNAMIC_SHARED(shared);
  int32_t* slots = reinterpret_cast<int32_t*>(shared);
  int32_t listed = 0;
  for (int32_t first = 0; first < p.count; first += kThreads) {
    const int32_t row = first + ThreadIndex();
    const bool counts = row < p.count && p.labels[row] != p.ignored;
    const Prefix<int32_t> prefix = BlockPrefixSum<kThreads>(counts ? 1 : 0, slots);
    if (counts) p.rows[listed + prefix.before] = row;
    listed += prefix.total;
  }
}

// to[i] ← from[rows[i]] and its label; rows [count, …) get zeros and `ignored`. T is storage and is
// not converted. A block copies one row.
template <class T>
struct GatherRowsParams {
  static constexpr int kThreads = 128, kMinBlocks = 8;
  const T* from;  // [n, dim]
  const int32_t* labels;
  const int32_t* rows;  // [count]
  int64_t count, dim;
  int32_t ignored;
  T* to;  // [blocks, dim]
  int32_t* labels_to;
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(GatherRowsParams<T>::kThreads, GatherRowsParams<T>::kMinBlocks)
    GatherRows(const LORA_GRID_CONSTANT GatherRowsParams<T> p) {
  constexpr int kThreads = GatherRowsParams<T>::kThreads;
  const int64_t i = BlockX();
  const int64_t row = i < p.count ? p.rows[i] : -1;
  if (ThreadIndex() == 0) p.labels_to[i] = row < 0 ? p.ignored : p.labels[row];
  if (row >= 0) return CopyRow<kThreads>(p.to + i * p.dim, p.from + row * p.dim, p.dim);
  for (int64_t j = ThreadIndex(); j < p.dim; j += kThreads) p.to[i * p.dim + j] = 0;
}

// to[rows[i]] ← from[i]. A block copies one row.
struct ScatterRowsParams {
  static constexpr int kThreads = 128, kMinBlocks = 8;
  const float* from;    // [blocks, dim]
  const int32_t* rows;  // [blocks]
  int64_t dim;
  float* to;  // [n, dim]
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(ScatterRowsParams::kThreads, ScatterRowsParams::kMinBlocks)
    ScatterRows(const LORA_GRID_CONSTANT ScatterRowsParams p) {
  CopyRow<ScatterRowsParams::kThreads>(p.to + p.rows[BlockX()] * p.dim, p.from + BlockX() * p.dim,
                                       p.dim);
}

// logits ← cap·tanh(logits / cap), in rows of `vocab`. A block handles one row.
struct CapRowsParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  float* logits;
  int64_t vocab, pitch;
  float cap;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(CapRowsParams::kThreads, CapRowsParams::kMinBlocks)
    CapRows(const LORA_GRID_CONSTANT CapRowsParams p) {
  float* row = p.logits + BlockX() * p.pitch;
  for (int64_t i = ThreadIndex(); i < p.vocab; i += CapRowsParams::kThreads)
    row[i] = unary::Softcap::Value(row[i], p.cap);
}

// to[row] ← 0 where the label is `ignored`. A block handles one row.
struct ClearRowsParams {
  static constexpr int kThreads = 128, kMinBlocks = 8;
  const int32_t* labels;
  int32_t ignored;
  int64_t dim;
  float* to;  // [blocks, dim]
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(ClearRowsParams::kThreads, ClearRowsParams::kMinBlocks)
    ClearRows(const LORA_GRID_CONSTANT ClearRowsParams p) {
  if (p.labels[BlockX()] != p.ignored) return;
  float* to = p.to + BlockX() * p.dim;
  for (int64_t j = ThreadIndex(); j < p.dim; j += ClearRowsParams::kThreads) to[j] = 0;
}

}  // namespace lora::device
