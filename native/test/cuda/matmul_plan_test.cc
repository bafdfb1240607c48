#include "backend/cuda/matmul_plan.h"

#include <doctest/doctest.h>

namespace lora::test {
namespace {

TEST_CASE("cuda matmul: one launch, but where both operands repeat in turn") {
  const auto plan = [](const Shape& a, const Shape& b, const Shape& y, bool trans_a = false) {
    const auto view = [](const Shape& s) { return TensorView(nullptr, DType::kBF16, s); };
    return cuda::PlanMatmul(MatmulArgs{view(a), view(b), view(y), trans_a, false});
  };
  const cuda::MatmulPlan batched = plan({2, 3, 4, 9}, {2, 3, 9, 5}, {2, 3, 4, 5});
  CHECK(batched.launches == 1);
  CHECK(batched.gemm.m == 4);
  CHECK(batched.gemm.batches == 6);
  CHECK(batched.gemm.b_batch == 45);
  const cuda::MatmulPlan tall = plan({2, 3, 4, 9}, {9, 5}, {2, 3, 4, 5});
  CHECK(tall.launches == 1);
  CHECK(tall.gemm.m == 24);
  CHECK(tall.gemm.batches == 1);
  const cuda::MatmulPlan transposed = plan({2, 3, 9, 4}, {9, 5}, {2, 3, 4, 5}, true);
  CHECK(transposed.launches == 1);
  CHECK(transposed.gemm.batches == 6);
  CHECK(transposed.gemm.b_batch == 0);
  const cuda::MatmulPlan crossed = plan({7, 1, 4, 9}, {1, 3, 9, 5}, {7, 3, 4, 5});
  CHECK(crossed.launches == 3);
  CHECK(crossed.gemm.batches == 7);
}

}  // namespace
}  // namespace lora::test
