// Bounds what roundings cost.
#pragma once

#include <cmath>

#include "core/maths/dtype.h"

namespace lora::test {

constexpr double kU = UnitRoundoff(DType::kF32);

// Returns what the two roundings to `dtype` (of the tested and of the expected value) cost. Below
// the normal range of f32 a kernel may flush to 0.
inline double RoundingBound(DType dtype, double value) {
  const double smallest = dtype == DType::kF16 ? 6e-8 : 1.2e-38;
  return 2 * UnitRoundoff(dtype) * std::fabs(value) + smallest;
}

}  // namespace lora::test
