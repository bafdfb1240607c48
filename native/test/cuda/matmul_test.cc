#include <doctest/doctest.h>

#include <cmath>

#include "backend/cuda/matmul_plan.h"
#include "test/support/cuda_paths.h"
#include "test/support/matmul_cases.h"

namespace lora::test {
namespace {

std::vector<Tensor> Multiply(const MatmulCase& c, const Tensor& a, const Tensor& b, DType to,
                             Context& context) {
  std::vector<Tensor> y = {Tensor(to, c.y)};
  Run(MirroredCuda(), MatmulArgs{a, b, y[0], c.trans_a, c.trans_b}, context);
  return y;
}

void CheckExact(const MatmulCase& c, DType dtype) {
  CAPTURE(Text(c.a));
  CAPTURE(Text(c.b));
  CAPTURE(NameOf(dtype));
  const Tensor a = Integers(dtype, c.a, 1), b = Integers(dtype, c.b, 2);
  const Tensor expected = MatmulExpected(c, a, b, dtype);
  OnEveryCudaPath([&](Context& context) { return Multiply(c, a, b, dtype, context); },
                  [&](const std::vector<Tensor>& y) { CHECK_IDENTICAL(y[0], expected); });
}

TEST_CASE("cuda matmul: shapes, transposes and broadcasting, whole numbers exact") {
  std::vector<MatmulCase> cases = MatmulCases();
  cases.push_back({{2, 3, 9, 4}, {9, 5}, {2, 3, 4, 5}, true, false});  // shared b, transposed a
  cases.push_back({{2, 1, 2, 4, 8}, {1, 4, 1, 8, 8}, {2, 4, 2, 4, 8}});
  // Two dimensions besides the batch.
  cases.push_back({{2, 1, 4, 1, 3, 5}, {1, 5, 1, 2, 5, 4}, {2, 5, 4, 2, 3, 4}});
  cases.push_back({{2, 3, 0}, {2, 0, 4}, {2, 3, 4}});
  cases.push_back({{3, 130, 32}, {3, 32, 72}, {3, 130, 72}});
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
    for (const MatmulCase& c : cases) CheckExact(c, dtype);
}

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

TEST_CASE("cuda matmul: dtypes may be mixed") {
  const DType dtypes[] = {DType::kF32, DType::kBF16, DType::kF16};
  const MatmulCase c = {{9, 33}, {33, 18}, {9, 18}};
  int turn = 0;
  for (const DType da : dtypes) {
    for (const DType db : dtypes) {
      for (const DType dy : dtypes) {
        CAPTURE(NameOf(da));
        CAPTURE(NameOf(db));
        CAPTURE(NameOf(dy));
        const Tensor a = Integers(da, c.a, 1), b = Integers(db, c.b, 2);
        MirrorContext context = NthContext(turn, turn % 2);
        ++turn;
        CHECK_IDENTICAL(Multiply(c, a, b, dy, context)[0], MatmulExpected(c, a, b, dy));
      }
    }
  }
}

TEST_CASE("cuda matmul: products of any numbers stay within the bound of f32 accumulation") {
  const MatmulCase cases[] = {{{2, 33, 301}, {2, 301, 45}, {2, 33, 45}},
                              {{5, 600}, {40, 600}, {5, 40}, false, true}};
  for (const MatmulCase& c : cases) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      CAPTURE(Text(c.a));
      CAPTURE(NameOf(dtype));
      const Tensor a = Normal(dtype, c.a, 1), b = Normal(dtype, c.b, 2);
      const Tensor expected = MatmulExpected(c, a, b, DType::kF64);
      Tensor abs_a = a, abs_b = b;
      for (int64_t i = 0; i < a.numel(); ++i) abs_a.Set(i, std::fabs(a.at(i)));
      for (int64_t i = 0; i < b.numel(); ++i) abs_b.Set(i, std::fabs(b.at(i)));
      const Tensor terms = MatmulExpected(c, abs_a, abs_b, DType::kF64);
      // Errors of a chain of k additions that do not all point the same way.
      const double chain = 4 * std::sqrt(static_cast<double>(c.a[-1]));
      std::vector<double> bounds;
      for (int64_t i = 0; i < expected.numel(); ++i)
        bounds.push_back(chain * kU * terms.at(i) + RoundingBound(dtype, expected.at(i)));
      OnEveryCudaPath([&](Context& context) { return Multiply(c, a, b, dtype, context); },
                      [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], expected, bounds); });
    }
  }
}

}  // namespace
}  // namespace lora::test
