#include <doctest/doctest.h>

#include <limits>

#include "backend/cuda/reduce_sum_plan.h"
#include "test/support/cuda_paths.h"
#include "test/support/reduce_sum_cases.h"

namespace lora::test {
namespace {

void CheckCase(const Tensor& x, const Shape& shape, DType to) {
  CAPTURE(Text(x.shape()));
  CAPTURE(Text(shape));
  CAPTURE(NameOf(x.dtype()));
  CAPTURE(NameOf(to));
  const Tensor expected(to, shape);
  Run(ReferenceBackend(), ReduceSumArgs{x, expected});
  const std::vector<double> bounds = ReduceSumBounds(x, expected);
  OnEveryCudaPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(to, shape)};
        Run(MirroredCuda(), ReduceSumArgs{x, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], expected, bounds); });
}

TEST_CASE("cuda reduce_sum: the plan covers every term once, and fills the device") {
  using cuda::PlanReduceSum;
  using cuda::ReduceSumPlan;
  std::vector<ReduceSumCase> cases = ReduceSumCases();
  for (const Shape& x : {Shape{1 << 20}, Shape{8192, 4096}, Shape{4, 2048, 64}})
    for (const Shape& y : {Shape{}, Shape{x[-1]}, Shape{x[0], 1}})
      if (x.rank() > 1 || y.rank() == 0) cases.push_back({x, y});
  for (const ReduceSumCase& c : cases) {
    if (c.x.numel() == 0 || c.y.numel() > c.x.numel()) continue;
    for (const int multiprocessors : {1, 4, 20, 132}) {
      CAPTURE(Text(c.x));
      CAPTURE(Text(c.y));
      CAPTURE(multiprocessors);
      const ReduceSumPlan plan = PlanReduceSum(c.x, c.y, multiprocessors);
      CHECK(plan.splits * plan.per_split >= plan.count);
      CHECK((plan.splits - 1) * plan.per_split < plan.count);
      // Splits at most double the blocks that are wanted, and are never short.
      if (plan.splits > 1) {
        CHECK(plan.blocks <= 4 * multiprocessors);
        CHECK(plan.per_split >= 128);
      }
      CHECK(cuda::PartialBytes(plan) ==
            (plan.splits > 1 ? static_cast<size_t>(8 * plan.splits * plan.outputs) : 0));
    }
  }
  CHECK(PlanReduceSum({1 << 22}, {}, 132).blocks >= 264);
  CHECK(PlanReduceSum({8192, 4096}, {4096}, 132).blocks >= 264);
  CHECK(PlanReduceSum({8192, 4096}, {8192, 1}, 132).splits == 1);
}

TEST_CASE("cuda reduce_sum: everything, of every size") {
  for (const int64_t n : CudaSizes()) CheckCase(Normal(DType::kF32, {n}, 1), {}, DType::kF32);
  CheckCase(Normal(DType::kF32, {100003}, 1), {}, DType::kF32);
  CheckCase(Normal(DType::kBF16, {500009}, 1), {}, DType::kF32);  // more than 16 splits
  CheckCase(Normal(DType::kF32, {}, 1), {}, DType::kF32);
  CheckCase(Normal(DType::kBF16, {3, 1001}, 1), {}, DType::kF32);
  CheckCase(Normal(DType::kF16, {3, 1001}, 1), {1, 1}, DType::kF32);
}

TEST_CASE("cuda reduce_sum: some dimensions, leading, trailing and between") {
  std::vector<ReduceSumCase> cases = ReduceSumCases();
  cases.push_back({{1000, 3}, {3}});  // split columns
  cases.push_back({{2, 700, 72}, {2, 1, 72}});
  cases.push_back({{50, 9000}, {50, 1}});  // a block per sum
  for (const ReduceSumCase& c : cases) {
    CheckCase(Normal(DType::kF32, c.x, 2), c.y, DType::kF32);
    CheckCase(Normal(DType::kBF16, c.x, 3), c.y, DType::kF32);
    CheckCase(Normal(DType::kF16, c.x, 4), c.y, DType::kF16);
    if (c.x.numel() < 10000) CheckCase(Normal(DType::kBF16, c.x, 4), c.y, DType::kBF16);
  }
}

TEST_CASE("cuda reduce_sum: large terms that cancel leave the small ones") {
  const Tensor x = CancellingTerms();
  OnEveryCudaPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(DType::kF32, {}), Tensor(DType::kF32, {1})};
        Run(MirroredCuda(), ReduceSumArgs{x, y[0]}, context);
        const TensorView column(x.view().data, DType::kF32, {4096, 1});
        Run(MirroredCuda(), ReduceSumArgs{column, y[1]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) {
        CHECK(y[0].at(0) == 2048);
        CHECK(y[1].at(0) == 2048);
      });
  // The same down columns.
  Tensor columns(DType::kF32, {4096, 3});
  for (int64_t i = 0; i < columns.numel(); ++i) columns.Set(i, x.at(i / 3));
  OnEveryCudaPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(DType::kF32, {3})};
        Run(MirroredCuda(), ReduceSumArgs{columns, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) { CHECK_IDENTICAL(y[0], Full(DType::kF32, {3}, 2048)); });
}

TEST_CASE("cuda reduce_sum: infinities and NaN come through") {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const int64_t n : {5, 9000}) {
    MirrorContext context = NthContext(static_cast<int>(n));
    const Tensor x = Full(DType::kF32, {3, n}, 1), y(DType::kF32, {3, 1});
    x.view().as<float>()[1] = std::numeric_limits<float>::infinity();
    x.view().as<float>()[n + 2] = -std::numeric_limits<float>::infinity();
    x.view().as<float>()[2 * n + 3] = std::numeric_limits<float>::quiet_NaN();
    Run(MirroredCuda(), ReduceSumArgs{x, y}, context);
    CHECK(y.at(0) == kInfinity);
    CHECK(y.at(1) == -kInfinity);
    CHECK(std::isnan(y.at(2)));
  }
}

}  // namespace
}  // namespace lora::test
