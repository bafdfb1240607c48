// binary: the cases and bounds of every backend.
#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include "core/ops/ops.h"
#include "test/support/rounding.h"
#include "test/support/tensors.h"

namespace lora::test {

constexpr BinaryKind kKinds[] = {BinaryKind::kAdd, BinaryKind::kSub, BinaryKind::kMul,
                                 BinaryKind::kDiv};

// Away from 0, for kDiv.
inline Tensor Operand(DType dtype, Shape shape, uint64_t seed) {
  return Uniform(dtype, shape, seed, 0.5, 2);
}

// One f32 operation, then the rounding to y.
inline std::vector<double> BinaryBounds(const Tensor& expected) {
  std::vector<double> bounds;
  for (const double e : expected.Values())
    bounds.push_back(kU * std::fabs(e) + RoundingBound(expected.dtype(), e));
  return bounds;
}

inline std::vector<std::pair<Shape, Shape>> BroadcastCases() {
  return {
      {{}, {}},
      {{}, {5}},
      {{700}, {1}},
      {{1}, {700}},
      {{3, 700}, {700}},
      {{700}, {3, 700}},
      {{3, 700}, {3, 1}},
      {{3, 1}, {1, 7}},
      {{2, 3, 5}, {3, 1}},
      {{2, 1, 5}, {3, 5}},
      {{2, 3, 4, 5}, {2, 1, 4, 1}},
      {{1, 4, 1, 5}, {3, 1, 6, 1}},
      {{0, 3}, {1, 3}},
      {{3, 0}, {1}},
      {{1, 1}, {1}},
      {{130, 777}, {777}},
      {{130, 777}, {130, 1}},
      {{1, 1, 2, 1}, {1, 2, 1, 2, 1, 2}},
  };
}

}  // namespace lora::test
