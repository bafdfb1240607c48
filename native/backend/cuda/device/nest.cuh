// Finds where element i of the loops of nest.h is in each tensor.
#pragma once

#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/nest.h"

namespace lora::device {

// Adds to at[o] the offset of element `i` in operand o.
template <int kOperands>
LORA_DEVICE void AddOffsets(const Nest<kOperands>& nest, int64_t i, int64_t (&at)[kOperands]) {
  for (int d = nest.rank - 1; d >= 0; --d) {
    const Division split = Divide(i, nest.dims[d]);
    i = split.quotient;
    LORA_UNROLL
    for (int o = 0; o < kOperands; ++o) at[o] += split.remainder * nest.strides[o][d];
  }
}

}  // namespace lora::device
