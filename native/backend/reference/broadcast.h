// Indexes operands by NumPy's broadcasting: shapes are aligned at the right, and a
// dimension of 1 repeats.
#pragma once

#include "core/ops/tensor_view.h"

namespace lora::reference {

// Returns the element of `shape` that element `i` of a tensor of shape `result` reads.
inline int64_t BroadcastIndex(const Shape& shape, const Shape& result, int64_t i) {
  int64_t index = 0, stride = 1;
  for (int d = 1; d <= shape.rank(); ++d) {
    const int64_t at = i % result[-d];
    i /= result[-d];
    if (shape[-d] != 1) index += at * stride;
    stride *= shape[-d];
  }
  return index;
}

}  // namespace lora::reference
