// reduce_sum: the cases and bounds of every backend.
#pragma once

#include <cmath>
#include <vector>

#include "test/support/rounding.h"
#include "test/support/run.h"
#include "test/support/tensors.h"

namespace lora::test {

struct ReduceSumCase {
  Shape x, y;
};

// Leading, trailing and dimensions between.
inline std::vector<ReduceSumCase> ReduceSumCases() {
  return {
      {{7, 65}, {65}},
      {{7, 65}, {7, 1}},
      {{7, 65}, {1, 65}},
      {{3, 5, 17}, {5, 1}},
      {{3, 5, 17}, {3, 1, 17}},
      {{3, 5, 17}, {1, 5, 1}},
      {{2, 3, 4, 5}, {3, 1, 5}},
      {{2, 3, 4, 5}, {2, 1, 4, 1}},
      {{1, 1, 9}, {1}},
      {{4, 9}, {4, 9}},
      {{0, 3}, {3}},
      {{0, 3}, {}},
      {{3, 0}, {3, 1}},
      {{3, 0}, {1, 0}},
      {{5, 1}, {5, 1}},
      {{300, 513}, {513}},
      {{300, 513}, {300, 1}},
      {{3, 40000}, {3, 1}},
      {{2, 3, 20011}, {3, 1}},
      {{1, 1, 2, 1, 3, 1, 2, 2}, {3, 1, 1, 2}},
  };
}

// The CPU's chains have at most 512 / 16 additions, then comes a tree.
inline std::vector<double> ReduceSumBounds(const Tensor& x, const Tensor& expected) {
  Tensor magnitudes = x.As(DType::kF64);
  for (int64_t i = 0; i < x.numel(); ++i) magnitudes.Set(i, std::fabs(x.at(i)));
  const Tensor total(DType::kF64, expected.shape());
  Run(ReferenceBackend(), ReduceSumArgs{magnitudes, total});
  std::vector<double> bounds;
  for (int64_t i = 0; i < expected.numel(); ++i)
    bounds.push_back(40 * kU * total.at(i) + RoundingBound(expected.dtype(), expected.at(i)));
  return bounds;
}

// Large terms that cancel leave the small ones, which are 2048 ones: in a single f32 chain
// they would be lost beside 2²⁵.
inline Tensor CancellingTerms() {
  Tensor x = Full(DType::kF32, {4096}, 1);
  for (int64_t block = 0; block < 4; ++block) {
    for (int64_t i = 0; i < 512; ++i)
      x.Set(block * 1024 + i, block % 2 == 0 ? 33554432 : -33554432);
  }
  return x;
}

}  // namespace lora::test
