// y[o] = Σ over r of x[place(o) + place(r)], with compensated terms
// (compensated.cuh) and one rounding.
//
// Rows:    x's innermost dimension is summed. kThreadsPerSum threads (a warp or the block) share an
//          output and take vectors of 8 terms in turn.
// Columns: x's innermost dimension is kept. A block owns 64 columns: 8 threads side by side take 8
//          columns each, and 32 such rows of threads take the terms in turn; then one thread per
//          column adds the 32 partial sums.
//
// Where there are too few outputs to fill the device, `splits` blocks share each, leave partial
// sums in scratch ([splits, outputs]), and FinishSums adds them in order.
#pragma once

#include "backend/cuda/device/any_elements.cuh"
#include "backend/cuda/device/compensated.cuh"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/nest.cuh"
#include "backend/cuda/device/reduce_sum_plan.h"

namespace lora::device {

constexpr int kSumColumnThreads = kSumThreads / kSumRowThreads;
static_assert(kSumColumnThreads * kSumVector == kSumColumns);

struct SumParams {
  static constexpr int kThreads = kSumThreads, kMinBlocks = 3;
  AnyInput x;
  AnyOutput y;
  Compensated* partial;  // null without splits
  ReduceSumPlan plan;
};
static_assert(sizeof(Compensated) == kSumPartialBytes);
struct SumRowsParams : SumParams {
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(Compensated);
};
struct SumColumnsParams : SumParams {
  // Partial sums by row of threads: first `sum` of all columns, then `rest`.
  static constexpr size_t kSharedBytes = 2 * sizeof(float) * kSumRowThreads * kSumColumns;
};

LORA_DEVICE void LeaveSum(const SumParams& p, int64_t output, int64_t split, Compensated sum) {
  if (p.partial) {
    p.partial[split * p.plan.outputs + output] = sum;
  } else {
    StoreElement(p.y, output, sum.Value());
  }
}

template <int kThreadsPerSum>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(SumParams::kThreads, SumParams::kMinBlocks)
    SumRows(const LORA_GRID_CONSTANT SumRowsParams p) {
  LORA_DYNAMIC_SHARED(shared);
  const auto [split, output] =
      Divide(int64_t{BlockX()} * (kSumThreads / kThreadsPerSum) + ThreadIndex() / kThreadsPerSum,
             p.plan.outputs);
  if (split >= p.plan.splits) return;  // false for the whole block where it shares one sum
  int64_t base[1] = {0};
  AddOffsets(p.plan.kept, output, base);
  const int64_t chunks = (p.plan.inner + kSumVector - 1) / kSumVector;
  const int64_t begin = split * p.plan.per_split;
  int64_t end = begin + p.plan.per_split;
  if (end > p.plan.count) end = p.plan.count;
  Compensated sum{0.0f, 0.0f};
  for (int64_t unit = begin + ThreadIndex() % kThreadsPerSum; unit < end; unit += kThreadsPerSum) {
    const Division place = Divide(unit, chunks);
    int64_t at[1] = {base[0]};
    AddOffsets(p.plan.terms, place.quotient, at);
    float values[kSumVector];
    LoadElements(values, p.x, at[0] + place.remainder * kSumVector, at[0] + p.plan.inner);
    LORA_UNROLL
    for (int j = 0; j < kSumVector; ++j) sum.Add(values[j]);
  }
  if constexpr (kThreadsPerSum == 32) {
    sum = WarpReduce(sum, JoinCompensated());
  } else {
    sum = BlockReduce<kSumThreads>(sum, reinterpret_cast<Compensated*>(shared), JoinCompensated());
  }
  if (ThreadIndex() % kThreadsPerSum == 0) LeaveSum(p, output, split, sum);
}

LORA_KERNEL void LORA_LAUNCH_BOUNDS(SumParams::kThreads, SumParams::kMinBlocks)
    SumColumns(const LORA_GRID_CONSTANT SumColumnsParams p) {
  LORA_DYNAMIC_SHARED(shared);
  float* slots = reinterpret_cast<float*>(shared);
  const int64_t slabs = (p.plan.inner + kSumColumns - 1) / kSumColumns;
  const auto [rest, slab] = Divide(BlockX(), slabs);
  const auto [split, kept] = Divide(rest, p.plan.outputs / p.plan.inner);
  int64_t base[1] = {0};
  AddOffsets(p.plan.kept, kept, base);
  const int column_thread = ThreadIndex() % kSumColumnThreads;
  const int row_thread = ThreadIndex() / kSumColumnThreads;
  const int64_t first = slab * kSumColumns + column_thread * kSumVector;
  const int64_t begin = split * p.plan.per_split;
  int64_t end = begin + p.plan.per_split;
  if (end > p.plan.count) end = p.plan.count;
  Compensated sums[kSumVector];
  LORA_UNROLL
  for (int j = 0; j < kSumVector; ++j) sums[j] = {0.0f, 0.0f};
  for (int64_t term = begin + row_thread; term < end; term += kSumRowThreads) {
    int64_t at[1] = {base[0]};
    AddOffsets(p.plan.terms, term, at);
    float values[kSumVector];
    LoadElements(values, p.x, at[0] + first, at[0] + p.plan.inner);
    LORA_UNROLL
    for (int j = 0; j < kSumVector; ++j) sums[j].Add(values[j]);
  }
  LORA_UNROLL
  for (int j = 0; j < kSumVector; ++j) {
    float* slot = slots + row_thread * 2 * kSumColumns + column_thread * kSumVector + j;
    slot[0] = sums[j].sum;
    slot[kSumColumns] = sums[j].rest;
  }
  SyncThreads();
  if (ThreadIndex() >= kSumColumns) return;
  Compensated sum{0.0f, 0.0f};
  for (int row = 0; row < kSumRowThreads; ++row) {
    const float* slot = slots + row * 2 * kSumColumns + ThreadIndex();
    sum = Joined(sum, {slot[0], slot[kSumColumns]});
  }
  const int64_t column = slab * kSumColumns + ThreadIndex();
  if (column < p.plan.inner) LeaveSum(p, kept * p.plan.inner + column, split, sum);
}

// A thread adds one output, or a warp where there are many splits.
template <int kThreadsPerSum>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(SumParams::kThreads, SumParams::kMinBlocks)
    FinishSums(const LORA_GRID_CONSTANT SumParams p) {
  const int64_t output =
      int64_t{BlockX()} * (kSumThreads / kThreadsPerSum) + ThreadIndex() / kThreadsPerSum;
  if (output >= p.plan.outputs) return;
  const int lane = ThreadIndex() % kThreadsPerSum;
  Compensated sum{0.0f, 0.0f};
  for (int64_t split = lane; split < p.plan.splits; split += kThreadsPerSum)
    sum = Joined(sum, p.partial[split * p.plan.outputs + output]);
  if constexpr (kThreadsPerSum == 32) sum = WarpReduce(sum, JoinCompensated());
  if (lane == 0) StoreElement(p.y, output, sum.Value());
}

}  // namespace lora::device
