// rms_norm: the cases and bounds of every backend.
#pragma once

#include <cmath>
#include <vector>

#include "core/ops/ops.h"
#include "test/support/rounding.h"
#include "test/support/tensors.h"

namespace lora::test {

struct RmsNormCase {
  int64_t n, d;
  DType act, weight;
};

inline std::vector<RmsNormCase> RmsNormCases() {
  std::vector<RmsNormCase> cases;
  const auto add = [&](int64_t n, int64_t d) {
    cases.push_back({n, d, DType::kF32, DType::kF32});
    cases.push_back({n, d, DType::kBF16, DType::kBF16});
    cases.push_back({n, d, DType::kBF16, DType::kF32});
  };
  for (const int64_t d : {1, 2, 3, 7, 8, 15, 16, 17, 63, 64, 65, 127, 129, 1000}) add(3, d);
  add(0, 64);
  add(1, 4096);
  add(173, 577);  // enough for three threads
  return cases;
}

// Additions in the longest chain of a sum of d terms on the CPU's narrowest target (4 vectors of 4
// lanes), then the tree over vectors and lanes. A GPU's chains are shorter.
inline double Chain(int64_t d) { return static_cast<double>(d) / 16 + 8; }

// Of rstd: all squares are positive, and the root halves their error.
inline double RstdError(int64_t d) { return kU * (Chain(d) / 2 + 2); }

inline std::vector<double> RmsNormBounds(const RmsNormCase& c, const Tensor& y) {
  std::vector<double> bounds;
  for (const double e : y.Values())
    bounds.push_back((RstdError(c.d) + 2 * kU) * std::fabs(e) + RoundingBound(c.act, e));
  return bounds;
}

inline std::vector<double> RmsNormBackwardBounds(const RmsNormCase& c, const Tensor& x,
                                                 const Tensor& w, const Tensor& rstd,
                                                 const Tensor& g, const Tensor& dx) {
  std::vector<double> bounds;
  for (int64_t row = 0; row < c.n; ++row) {
    double terms = 0;
    for (int64_t i = 0; i < c.d; ++i)
      terms += std::fabs(g.at(row * c.d + i) * w.at(i) * x.at(row * c.d + i));
    const double r = rstd.at(row), pull = r * r * terms / static_cast<double>(c.d);
    for (int64_t i = 0; i < c.d; ++i) {
      const int64_t at = row * c.d + i;
      bounds.push_back(
          r * kU *
              (4 * std::fabs(g.at(at) * w.at(i)) + (Chain(c.d) + 8) * std::fabs(x.at(at)) * pull) +
          RoundingBound(c.act, dx.at(at)));
    }
  }
  return bounds;
}

}  // namespace lora::test
