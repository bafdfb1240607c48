// rope: the cases and bounds of every backend.
#pragma once

#include <cmath>
#include <vector>

#include "core/ops/ops.h"
#include "test/support/rounding.h"
#include "test/support/tensors.h"

namespace lora::test {

struct RopeCase {
  int64_t b, s, heads, d;
  bool with_positions, inverse;
};

inline std::vector<RopeCase> RopeCases() {
  std::vector<RopeCase> cases;
  for (const int64_t d : {0, 2, 6, 8, 14, 16, 30, 32, 34, 64, 126, 128}) {
    cases.push_back({2, 5, 3, d, false, false});
    cases.push_back({2, 5, 3, d, true, true});
  }
  cases.push_back({0, 5, 3, 64, true, false});
  cases.push_back({3, 0, 3, 64, false, false});
  return cases;
}

// The operands of a case.
struct RopeOperands {
  RopeOperands(const RopeCase& c, DType act)
      : c(c),
        x(Normal(act, {c.b, c.s, c.heads, c.d}, 1)),
        cos(Uniform(DType::kF32, {c.s + 4, c.d / 2}, 2)),
        sin(Uniform(DType::kF32, {c.s + 4, c.d / 2}, 3)),
        positions(Integers(DType::kI32, {c.b, c.s}, 4, 0, static_cast<int>(c.s) + 3)) {}
  RopeArgs Args(const Tensor& from, const Tensor& y) const {
    RopeArgs args;
    args.x = from;
    args.cos = cos;
    args.sin = sin;
    if (c.with_positions) {
      args.positions = positions;
    } else {
      args.offset = 2;
    }
    args.inverse = c.inverse;
    args.y = y;
    return args;
  }
  std::vector<double> Bounds(const Tensor& expected) const {
    std::vector<double> bounds;
    const int64_t half = c.d / 2;
    for (int64_t i = 0; i < x.numel(); ++i) {
      const int64_t column = i % c.d, pair = column < half ? i + half : i - half;
      // |cos|, |sin| <= 1
      bounds.push_back(3 * kU * (std::fabs(x.at(i)) + std::fabs(x.at(pair))) +
                       RoundingBound(x.dtype(), expected.at(i)));
    }
    return bounds;
  }
  RopeCase c;
  Tensor x, cos, sin, positions;
};

}  // namespace lora::test
