// Loops over the dimensions of tensors that lie differently in memory: where element i of the loops
// is in each of them. nest.h makes them.
#pragma once

#include "backend/cuda/device/index.cuh"

namespace lora::device {

template <int kOperands>
struct Nest {
  static constexpr int kMost = 8;
  int rank = 0;  // outermost first
  int64_t dims[kMost] = {};
  int64_t strides[kOperands][kMost] = {};
};

// Adds to at[o] what the place of element `i` adds.
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
