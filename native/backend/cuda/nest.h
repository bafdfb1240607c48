// Builds the loops of device/nest.h. Dimensions of 1 are left out, and neighbors that are one run
// in all tensors are joined, so that the innermost loop is as long as possible.
#pragma once

#include <array>

#include "backend/cuda/device/nest.h"
#include "core/ops/tensor_view.h"

namespace lora::cuda {

// Appends an inner dimension with the strides of each operand.
template <int kOperands>
void AppendDimension(device::Nest<kOperands>& nest, int64_t dim,
                     const std::array<int64_t, kOperands>& strides) {
  if (dim == 1) return;
  bool joins = nest.rank > 0;
  for (int o = 0; joins && o < kOperands; ++o) {
    const size_t at = static_cast<size_t>(o);
    joins = nest.strides[o][nest.rank - 1] == dim * strides[at];
  }
  const int d = joins ? nest.rank - 1 : nest.rank++;
  nest.dims[d] = joins ? nest.dims[d] * dim : dim;
  for (int o = 0; o < kOperands; ++o) nest.strides[o][d] = strides[static_cast<size_t>(o)];
}

template <int kOperands>
void RemoveDimension(device::Nest<kOperands>& nest, int at) {
  --nest.rank;
  for (int d = at; d < nest.rank; ++d) {
    nest.dims[d] = nest.dims[d + 1];
    for (int o = 0; o < kOperands; ++o) nest.strides[o][d] = nest.strides[o][d + 1];
  }
}

// Returns the strides of a row-major tensor of `shape` that is aligned at the right with `rank`
// dimensions; a stride is 0 where the tensor has 1 element or no dimension.
inline std::array<int64_t, kMaxDims> BroadcastStrides(const Shape& shape, int rank) {
  std::array<int64_t, kMaxDims> strides{};
  int64_t stride = 1;
  for (int d = 1; d <= shape.rank(); ++d) {
    if (shape[-d] != 1) strides[static_cast<size_t>(rank - d)] = stride;
    stride *= shape[-d];
  }
  return strides;
}

// Removes the innermost dimension, so that the outer loops are left.
struct Inner {
  int64_t dim = 1;
  std::array<int64_t, 2> strides{};
};
inline Inner TakeInner(device::Nest<2>& nest) {
  Inner inner;
  if (nest.rank == 0) return inner;
  const int d = --nest.rank;
  inner.dim = nest.dims[d];
  inner.strides = {nest.strides[0][d], nest.strides[1][d]};
  return inner;
}

}  // namespace lora::cuda
