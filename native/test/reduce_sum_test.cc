// reduce_sum of the CPU backend against the reference.
#include "backend/cpu/reduce_sum.h"

#include <doctest/doctest.h>

#include "test/support/cpu_paths.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<ReduceSumArgs> kReduceSum = {cpu::ReduceSumScratchBytes, cpu::ReduceSum};

void CheckCase(const Tensor& x, const Shape& shape, DType to) {
  CAPTURE(Text(x.shape()));
  CAPTURE(Text(shape));
  CAPTURE(NameOf(x.dtype()));
  CAPTURE(NameOf(to));
  Tensor magnitudes = x.As(DType::kF64);
  for (int64_t i = 0; i < x.numel(); ++i) magnitudes.Set(i, std::fabs(x.at(i)));
  Tensor expected(to, shape), total(DType::kF64, shape);
  Run(ReferenceBackend(), &Backend::reduce_sum, ReduceSumArgs{x, expected});
  Run(ReferenceBackend(), &Backend::reduce_sum, ReduceSumArgs{magnitudes, total});
  // Chains of at most 512 / 16 additions, then a tree.
  std::vector<double> bounds;
  for (int64_t i = 0; i < expected.numel(); ++i) {
    bounds.push_back(40 * kU * total.at(i) + RoundingBound(to, expected.at(i)));
  }
  OnEveryCpuPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(to, shape)};
        Run(kReduceSum, ReduceSumArgs{x, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], expected, bounds); });
}

TEST_CASE("reduce_sum: everything, of every size") {
  for (const int64_t n : OddSizes()) CheckCase(Normal(DType::kF32, {n}, 1), {}, DType::kF32);
  CheckCase(Normal(DType::kF32, {}, 1), {}, DType::kF32);
  CheckCase(Normal(DType::kBF16, {3, 1001}, 1), {}, DType::kF32);
  CheckCase(Normal(DType::kF16, {3, 1001}, 1), {1, 1}, DType::kF32);
}

TEST_CASE("reduce_sum: some dimensions, leading, trailing and between") {
  struct Case {
    Shape x, y;
  };
  const std::vector<Case> cases = {
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
  for (const Case& c : cases) {
    CheckCase(Normal(DType::kF32, c.x, 2), c.y, DType::kF32);
    CheckCase(Normal(DType::kBF16, c.x, 3), c.y, DType::kF32);
    CheckCase(Normal(DType::kBF16, c.x, 4), c.y, DType::kBF16);
  }
}

TEST_CASE("reduce_sum: large terms that cancel leave the small ones") {
  // In a single f32 chain the ones would be lost beside 2²⁵.
  Tensor x = Full(DType::kF32, {4096}, 1);
  for (int64_t block = 0; block < 4; ++block) {
    for (int64_t i = 0; i < 512; ++i)
      x.Set(block * 1024 + i, block % 2 == 0 ? 33554432 : -33554432);
  }
  OnEveryCpuPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(DType::kF32, {})};
        Run(kReduceSum, ReduceSumArgs{x, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) { CHECK(y[0].at(0) == 2048); });
}

}  // namespace
}  // namespace lora::test
