// Nested loops over the elements of a result, with the strides of N operands.
#pragma once

#include <array>
#include <cstddef>

#include "core/ops/tensor_view.h"

namespace lora::cpu {

template <size_t N>
struct Nest {
  using Strides = std::array<size_t, N>;

  int rank = 0;
  std::array<size_t, kMaxDims> size{};
  std::array<Strides, kMaxDims> stride{};  // in elements; 0 repeats

  // Adds dimensions from the outermost to the innermost. Neighbors that every operand walks with
  // one stride become one dimension.
  void Add(size_t n, const Strides& s) {
    if (n == 1) return;
    if (rank > 0) {
      const size_t last = static_cast<size_t>(rank - 1);
      bool even = true;
      for (size_t k = 0; k < N; ++k) even = even && stride[last][k] == s[k] * n;
      if (even) {
        size[last] *= n;
        stride[last] = s;
        return;
      }
    }
    size[static_cast<size_t>(rank)] = n;
    stride[static_cast<size_t>(rank)] = s;
    ++rank;
  }

  size_t inner_size() const { return rank == 0 ? 1 : size[static_cast<size_t>(rank - 1)]; }
  Strides inner_stride() const {
    return rank == 0 ? Strides{} : stride[static_cast<size_t>(rank - 1)];
  }
  size_t count(int dims) const {
    size_t n = 1;
    for (int i = 0; i < dims; ++i) n *= size[static_cast<size_t>(i)];
    return n;
  }
  // Returns the iterations of all loops but the innermost.
  size_t rows() const { return rank == 0 ? 1 : count(rank - 1); }

  // Returns where iteration `index` of the outer `dims` loops begins in each operand.
  Strides OffsetOf(size_t index, int dims) const {
    Strides offset{};
    for (int i = dims - 1; i >= 0; --i) {
      const size_t d = static_cast<size_t>(i), at = index % size[d];
      index /= size[d];
      for (size_t k = 0; k < N; ++k) offset[k] += at * stride[d][k];
    }
    return offset;
  }
  Strides RowOffset(size_t row) const { return OffsetOf(row, rank == 0 ? 0 : rank - 1); }
};

// Returns the strides with which `from` is read for a result of shape `to` by NumPy's rule: shapes
// are aligned at the right and a dimension of 1 repeats.
inline std::array<size_t, kMaxDims> BroadcastStrides(const Shape& from, const Shape& to) {
  std::array<size_t, kMaxDims> strides{};
  size_t step = 1;
  for (int i = from.rank() - 1, j = to.rank() - 1; i >= 0; --i, --j) {
    strides[static_cast<size_t>(j)] = from[i] == 1 ? 0 : step;
    step *= static_cast<size_t>(from[i]);
  }
  return strides;
}

}  // namespace lora::cpu
