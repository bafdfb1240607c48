// How a frozen matrix is stored, apart from the dtype of the activations that it multiplies.
// Packing, unpacking and the loop that reads a packed matrix know formats; everything else knows
// the dtype in which an op sees the values.
#pragma once

#include <cstdint>

#include "core/maths/dtype.h"

namespace lora {

enum class WeightFormat : uint8_t {
  kF32,
  kBF16,
  kF16,
  kF64,     // see DType
  kI8Rows,  // W[i, j] = q[i, j]·s[i] with q in int8, s in f32, rounded to f32
};

// The dtype of the row-major values that pack() takes for a format.
constexpr DType StoredDType(WeightFormat format) {
  switch (format) {
    case WeightFormat::kBF16:
      return DType::kBF16;
    case WeightFormat::kF16:
      return DType::kF16;
    case WeightFormat::kF64:
      return DType::kF64;
    case WeightFormat::kI8Rows:
      return DType::kI8;
    default:
      return DType::kF32;
  }
}

// The format in which values of a dtype are stored as they are. DType::kI8 stands for kI8Rows.
constexpr WeightFormat FormatOf(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return WeightFormat::kBF16;
    case DType::kF16:
      return WeightFormat::kF16;
    case DType::kF64:
      return WeightFormat::kF64;
    case DType::kI8:
      return WeightFormat::kI8Rows;
    default:
      return WeightFormat::kF32;
  }
}

// Whether every value of a format is one of the dtype, but for the rounding of q·s: bf16 and f16
// weights fit f32 activations, and int8 rows fit f32 and bf16. Weights that are wider than the
// activations do not exist.
constexpr bool Fits(WeightFormat format, DType activations) {
  if (format == WeightFormat::kI8Rows)
    return activations == DType::kF32 || activations == DType::kBF16;
  if (format == WeightFormat::kBF16 || format == WeightFormat::kF16)
    return format == FormatOf(activations) || activations == DType::kF32;
  return format == FormatOf(activations);
}

constexpr const char* NameOf(WeightFormat format) {
  return format == WeightFormat::kI8Rows ? "int8 rows" : NameOf(StoredDType(format));
}

}  // namespace lora
