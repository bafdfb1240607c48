// Bounds what roundings cost.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/maths/ceil_div.h"
#include "core/maths/dtype.h"

namespace lora::test {

constexpr double kU = UnitRoundoff(DType::kF32);

// Returns what the two roundings to `dtype` (of the tested and of the expected value) cost. Below
// the normal range of f32 a kernel may flush to 0.
inline double RoundingBound(DType dtype, double value) {
  const double smallest = dtype == DType::kF16 ? 6e-8 : 1.2e-38;
  return 2 * UnitRoundoff(dtype) * std::fabs(value) + smallest;
}

// docs/internals/numerics.md, "Sums on tensor cores", derives the bounds from here on.

// Returns how far tensor cores may be off with a sum of `terms` products, as a part of the largest
// magnitude among its terms and partial sums.
inline double TensorCoreError(int64_t terms) {
  return terms == 0 ? 0 : kU * static_cast<double>(terms - 1 + 2 * CeilDiv(terms, 8));
}

// Returns that magnitude for a sum of x·w, as a part of ‖x‖₂·‖w‖₂.
inline double PartialSums(int64_t terms) {
  return terms == 0 ? 0 : std::min(1.0, 4 / std::sqrt(static_cast<double>(terms)));
}

// Returns both in one, for an accumulator that gets one sum.
inline double TensorCoreSumError(int64_t terms) {
  return TensorCoreError(terms) * PartialSums(terms);
}

// Does that for the low-rank products z·s (backend/cuda/device/skinny.cuh): s, which is f32, and z
// are sums of 16-bit numbers, so that a product takes several, and some are left out.
inline double LowRankSumError(DType z, int64_t terms) {
  const int products = z == DType::kBF16 ? 3 : z == DType::kF16 ? 5 : 6;
  const double left_out = z == DType::kBF16 ? 0 : 0x1p-21;
  constexpr double kParts = 1.01;  // what parts may have more than their sum
  return kParts * (TensorCoreError(products * terms) + left_out) * PartialSums(terms);
}

}  // namespace lora::test
