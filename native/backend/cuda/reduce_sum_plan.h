// Plans how sums over dimensions are split, as pure functions of shapes and multiprocessors.
#pragma once

#include <cstddef>

#include "backend/cuda/device/reduce_sum_plan.h"
#include "core/ops/tensor_view.h"

namespace lora::cuda {

using device::ReduceSumPlan;

// x must have elements.
ReduceSumPlan PlanReduceSum(const Shape& x, const Shape& y, int multiprocessors);

inline size_t PartialBytes(const ReduceSumPlan& plan) {
  return plan.splits > 1
             ? static_cast<size_t>(plan.splits * plan.outputs) * device::kSumPartialBytes
             : 0;
}

}  // namespace lora::cuda
