// The layout of frozen matrices on backends that keep them row-major: the values as pack() takes
// them, and behind them the scales.
#pragma once

#include "core/maths/ceil_div.h"
#include "core/maths/weight_format.h"

namespace lora {

// Bytes before the scales.
constexpr int64_t ScalesAt(WeightFormat format, int64_t rows, int64_t cols) {
  return RoundUp(ValueBytes(format, rows, cols), int64_t{sizeof(float)});
}
constexpr size_t RowMajorBytes(WeightFormat format, int64_t rows, int64_t cols) {
  if (!HasScales(format)) return static_cast<size_t>(ValueBytes(format, rows, cols));
  return static_cast<size_t>(ScalesAt(format, rows, cols) +
                             ScaleCount(format, rows, cols) * int64_t{sizeof(float)});
}

}  // namespace lora
