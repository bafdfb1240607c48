#include "backend/cuda/reduce_sum_plan.h"

#include <doctest/doctest.h>

#include <vector>

#include "test/support/tensors.h"

namespace lora::test {
namespace {

TEST_CASE("cuda reduce_sum: the plan covers every term once, and fills the device") {
  using cuda::PlanReduceSum;
  using cuda::ReduceSumPlan;
  struct Case {
    Shape x, y;
  };
  std::vector<Case> cases = {
      {{7, 65}, {65}},           {{7, 65}, {7, 1}},
      {{7, 65}, {1, 65}},        {{3, 5, 17}, {5, 1}},
      {{3, 5, 17}, {3, 1, 17}},  {{3, 5, 17}, {1, 5, 1}},
      {{2, 3, 4, 5}, {3, 1, 5}}, {{2, 3, 4, 5}, {2, 1, 4, 1}},
      {{1, 1, 9}, {1}},          {{4, 9}, {4, 9}},
      {{5, 1}, {5, 1}},          {{300, 513}, {513}},
      {{300, 513}, {300, 1}},    {{3, 40000}, {3, 1}},
      {{2, 3, 20011}, {3, 1}},   {{1, 1, 2, 1, 3, 1, 2, 2}, {3, 1, 1, 2}},
  };
  for (const Shape& x : {Shape{1 << 20}, Shape{8192, 4096}, Shape{4, 2048, 64}})
    for (const Shape& y : {Shape{}, Shape{x[-1]}, Shape{x[0], 1}})
      if (x.rank() > 1 || y.rank() == 0) cases.push_back({x, y});
  for (const Case& c : cases) {
    if (c.y.numel() > c.x.numel()) continue;
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

}  // namespace
}  // namespace lora::test
