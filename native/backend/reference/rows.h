// Reads and writes rows of operands as vectors of doubles.
#pragma once

#include <cstddef>
#include <vector>

#include "core/ops/element.h"

namespace lora::reference {

using Vector = std::vector<double>;

// This backend packs matrices row-major, so an index means the same as in a tensor.
inline double Load(const PackedView& view, int64_t i) {
  return lora::Load(view.dtype, view.data, i);
}
using lora::Load;

// Loads elements [first, first + n).
template <class View>
Vector LoadRange(const View& view, int64_t first, int64_t n) {
  Vector values(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) values[static_cast<size_t>(i)] = Load(view, first + i);
  return values;
}

inline void StoreRange(const TensorView& view, int64_t first, const Vector& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    Store(view, first + static_cast<int64_t>(i), values[i]);
  }
}

// Returns Σ over i of values[i]·view[first + i·stride].
template <class View>
double Dot(const Vector& values, const View& view, int64_t first, int64_t stride = 1) {
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    sum += values[i] * Load(view, first + static_cast<int64_t>(i) * stride);
  }
  return sum;
}

}  // namespace lora::reference
