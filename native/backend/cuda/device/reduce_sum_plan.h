// How a sum over dimensions is split, which the host plans (reduce_sum_plan.h) and the kernels
// follow (reduce_sum.cuh).
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cuda/device/nest.h"

namespace lora::device {

// The blocks of the kernels.
inline constexpr int kSumThreads = 256, kSumVector = 8;
inline constexpr int kSumColumns = 64, kSumRowThreads = 32;
inline constexpr size_t kSumPartialBytes = 8;

struct ReduceSumPlan {
  bool columns = false;  // the innermost dimension of x is kept: SumColumns; otherwise SumRows,
  bool warps = false;    // with a warp for each sum instead of a block
  int64_t blocks = 0;
  int64_t outputs = 1;
  int64_t inner = 1;  // the innermost dimension of x, of stride 1
  // A unit of work of an output is a vector (rows) or a row of terms (columns). `count` is their
  // number in all, `per_split` in a split.
  int64_t count = 0, per_split = 0, splits = 1;
  Nest<1> kept, terms;  // the dimensions of x except the innermost
};

}  // namespace lora::device
