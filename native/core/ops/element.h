// Reads and writes single elements of any dtype as doubles, so that one scalar loop serves every
// dtype, f64 included.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/ops/tensor_view.h"

namespace lora {

inline double Load(DType dtype, const void* data, int64_t i) {
  switch (dtype) {
    case DType::kF32:
      return static_cast<const float*>(data)[i];
    case DType::kBF16:
      return F32FromBF16(static_cast<const uint16_t*>(data)[i]);
    case DType::kF16:
      return F32FromF16(static_cast<const uint16_t*>(data)[i]);
    case DType::kI32:
      return static_cast<const int32_t*>(data)[i];
    case DType::kF64:
      return static_cast<const double*>(data)[i];
    case DType::kI8:
      return static_cast<const int8_t*>(data)[i];
  }
  return std::numeric_limits<double>::quiet_NaN();
}
inline double Load(const TensorView& view, int64_t i) { return Load(view.dtype, view.data, i); }

// Truncates towards zero and clamps to the range of int32_t; NaN gives 0.
inline int32_t Int32From(double value) {
  constexpr double kMin = std::numeric_limits<int32_t>::min();
  constexpr double kMax = std::numeric_limits<int32_t>::max();
  if (std::isnan(value)) return 0;
  return static_cast<int32_t>(value < kMin ? kMin : value > kMax ? kMax : value);
}

// Rounds once, from double to the view's dtype.
inline void Store(const TensorView& view, int64_t i, double value) {
  switch (view.dtype) {
    case DType::kF32:
      view.as<float>()[i] = static_cast<float>(value);
      return;
    case DType::kBF16:
      view.as<uint16_t>()[i] = BF16FromF64(value);
      return;
    case DType::kF16:
      view.as<uint16_t>()[i] = F16FromF64(value);
      return;
    case DType::kI32:
      view.as<int32_t>()[i] = Int32From(value);
      return;
    case DType::kF64:
      view.as<double>()[i] = value;
      return;
    case DType::kI8:
      view.as<int8_t>()[i] = static_cast<int8_t>(Int32From(value));
      return;
  }
}

}  // namespace lora
