// What lora_linear needs beside Decode (decode.cuh) for rows that have adapters of their own.
//
// CheckTable: the first row whose slot is outside of the table, and the first one that has an entry
// with failed tensors. One block does it.
//
// TableDown: h[m, r] = scale·Σ x[m]·down[r] with the entry of row m. A block of 256 threads
// computes one element of h [m, max_rank], and nothing where the rank of the row is smaller.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/first_bad.cuh"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/reduce.cuh"
#include "core/ops/delta_table.h"

namespace lora::device {

constexpr int kTableSites = 16;

struct TableReport {
  uint64_t outside, failed;  // rows; kNoBadId where there is none
};
struct CheckTableParams {
  static constexpr int kThreads = 256, kMinBlocks = 1;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(uint64_t);
  const int32_t* slots;
  int64_t rows, slot_count, sites;
  TableReport* report;
  int count, unused;
  const DeltaEntry* site[kTableSites];  // entry of slot 0
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(CheckTableParams::kThreads, CheckTableParams::kMinBlocks)
    CheckTable(const LORA_GRID_CONSTANT CheckTableParams p) {
  constexpr int kThreads = CheckTableParams::kThreads;
  LORA_DYNAMIC_SHARED(shared);
  uint64_t* reduced = reinterpret_cast<uint64_t*>(shared);
  uint64_t outside = kNoBadId, failed = kNoBadId;
  for (int64_t i = ThreadIndex(); i < p.rows; i += kThreads) {
    const int64_t slot = p.slots[i];
    if (slot < -1 || slot >= p.slot_count) {
      if (outside == kNoBadId) outside = static_cast<uint64_t>(i);
    } else if (slot >= 0) {
      for (int s = 0; s < p.count; ++s) {
        if (p.site[s][slot * p.sites].rank == kFailedRank && failed == kNoBadId)
          failed = static_cast<uint64_t>(i);
      }
    }
  }
  outside = BlockReduce<kThreads>(outside, reduced, Min());
  failed = BlockReduce<kThreads>(failed, reduced, Min());
  if (ThreadIndex() == 0) *p.report = {outside, failed};
}

struct TableDownTerm {
  const DeltaEntry* site;  // entry of slot 0
  float* h;                // [rows, max_rank]
};
template <class T>
struct TableDownParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(float);
  const T* x;  // [rows, k]
  const int32_t* slots;
  int64_t rows, k, max_rank, sites;
  TableDownTerm term[kTableSites];
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(TableDownParams<T>::kThreads, TableDownParams<T>::kMinBlocks)
    TableDown(const LORA_GRID_CONSTANT TableDownParams<T> p) {
  LORA_DYNAMIC_SHARED(shared);
  constexpr int kThreads = TableDownParams<T>::kThreads;
  const int64_t each = p.rows * p.max_rank, index = BlockX() % each;
  const TableDownTerm& term = p.term[BlockX() / each];
  const int64_t row = index / p.max_rank, r = index % p.max_rank;
  const int64_t slot = p.slots[row];
  if (slot < 0) return;
  const DeltaEntry& entry = term.site[slot * p.sites];
  if (r >= entry.rank) return;
  const T* x = p.x + row * p.k;
  const float* b = static_cast<const float*>(entry.down) + r * p.k;
  float sum = 0.0f;
  for (int64_t k = ThreadIndex() * 8; k < p.k; k += kThreads * 8) {
    float xs[8], bs[8];
    LoadElements(xs, x, k, p.k);
    LoadElements(bs, b, k, p.k);
    LORA_UNROLL
    for (int j = 0; j < 8; ++j) sum = Fma(xs[j], bs[j], sum);
  }
  sum = BlockSum<kThreads>(sum, reinterpret_cast<float*>(shared));
  if (ThreadIndex() == 0) term.h[row * p.max_rank + r] = entry.scale * sum;
}

}  // namespace lora::device
