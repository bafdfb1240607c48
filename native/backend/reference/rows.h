// Reads and writes rows of operands as vectors of doubles.
#pragma once

#include <cstddef>
#include <vector>

#include "core/maths/blocks.h"
#include "core/maths/philox.h"
#include "core/maths/row_major.h"
#include "core/ops/element.h"
#include "core/ops/linear.h"

namespace lora::reference {

using Vector = std::vector<double>;

// This backend packs matrices row-major, so an index means the same as in a tensor.
inline double Load(const PackedView& view, int64_t i) {
  const FormatTraits& format = TraitsOf(view.format);
  const auto seen = [&](float value) {
    return view.dtype == DType::kBF16 ? F32FromBF16(BF16FromF32(value)) : value;
  };
  if (HasBlocks(view.format))
    return seen(BlockValue(view.format, static_cast<const uint8_t*>(view.data), i));
  const double stored =
      format.codes == nullptr
          ? lora::Load(format.stored, view.data, i)
          : format.codes
                ->values[CodeAt(static_cast<const uint8_t*>(view.data), static_cast<size_t>(i))];
  if (format.scales == Scales::kNone) return stored;
  const auto* scales = reinterpret_cast<const float*>(static_cast<const std::byte*>(view.data) +
                                                      ScalesAt(view.format, view.rows, view.cols));
  const float scale = scales[i / (format.scales == Scales::kRows ? view.cols : kBlockValues)];
  return seen(static_cast<float>(stored) * scale);
}
using lora::Load;

inline double Load(const Vector& values, int64_t i) { return values[static_cast<size_t>(i)]; }

// Loads elements [first, first + n).
template <class View>
Vector LoadRange(const View& view, int64_t first, int64_t n) {
  Vector values(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) values[static_cast<size_t>(i)] = Load(view, first + i);
  return values;
}

// Loads all of a matrix, for uses that read each element many times.
inline Vector LoadAll(const PackedView& view) { return LoadRange(view, 0, view.rows * view.cols); }

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

// Applies the mask and the scale of dropout to one row; philox.h defines both.
inline void Drop(const Dropout& dropout, int64_t row, Vector& values) {
  if (!dropout.active()) return;
  const uint32_t threshold = DropoutThreshold(dropout.p);
  const double scale = DropoutScale(threshold);
  PhiloxWords words{};
  for (size_t column = 0; column < values.size(); ++column) {
    if (column % 8 == 0) {
      words =
          Philox4x32(dropout.seed, {static_cast<uint32_t>(column / 8), static_cast<uint32_t>(row),
                                    dropout.layer, dropout.forward});
    }
    const bool keep = DropoutKeeps(words, static_cast<int>(column % 8), threshold);
    values[column] = keep ? values[column] * scale : 0.0;
  }
}

inline Vector DroppedRow(const TensorView& x, int64_t row, const Dropout& dropout) {
  Vector values = LoadRange(x, row * x.dim(1), x.dim(1));
  Drop(dropout, row, values);
  return values;
}

}  // namespace lora::reference
