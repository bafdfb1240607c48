#include "backend/cuda/linear_cross_entropy_plan.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "backend/cuda/gemm_plan.h"
#include "core/maths/ceil_div.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

TEST_CASE("cuda linear_cross_entropy: chunks cover all rows that count, and scratch is bounded") {
  const Tensor hidden(DType::kBF16, {1, 4}), d_hidden(DType::kF32, {1, 4});
  LinearCrossEntropyArgs args;
  args.hidden = hidden;
  args.weight.dtype = DType::kBF16;
  args.d_hidden = d_hidden;
  for (const int64_t rows : {0, 1, 63, 64, 65, 1000, 1 << 20}) {
    for (const int64_t vocab : {0, 1, 1000, 32000, 151936, 262144}) {
      for (const int64_t dim : {1, 1024, 4096}) {
        CAPTURE(rows);
        CAPTURE(vocab);
        args.hidden.shape = args.d_hidden.shape = {rows, dim};
        args.weight.rows = vocab;
        args.weight.cols = dim;
        const auto plan = cuda::PlanLinearCrossEntropy(args, 132);
        CHECK(plan.chunk % 64 == 0);
        CHECK(plan.chunk <= 1024);
        CHECK(plan.bytes < (size_t{512} << 20));
        CHECK(plan.bytes ==
              CudaBackend()->op<LinearCrossEntropyArgs>().plan(args, 132).scratch_bytes);
        for (const int64_t counted : {int64_t{1}, rows / 3, rows - 1, rows}) {
          if (counted <= 0) continue;
          int64_t covered = 0;
          for (int64_t i = 0; i < plan.ChunksOf(counted); ++i) {
            const int64_t count = plan.RowsOf(counted, i);
            CHECK(count <= plan.chunk);
            if (covered + count < counted) CHECK(count % 64 == 0);
            covered += count;
          }
          CHECK(covered == counted);
        }
      }
    }
  }
}

TEST_CASE(
    "cuda linear_cross_entropy: a chunk in bf16 has twice the rows, and without gradients no "
    "logits") {
  LinearCrossEntropyArgs args;
  const auto plan_of = [&](DType dtype, bool gradient) {
    args.hidden = TensorView(nullptr, dtype, {2000, 64});
    args.d_hidden = gradient ? TensorView(nullptr, DType::kF32, {2000, 64}) : TensorView();
    args.weight = {nullptr, dtype, 151936, 64};
    return cuda::PlanLinearCrossEntropy(args, 132);
  };
  CHECK(plan_of(DType::kF32, true).chunk == 256);
  const auto plan = plan_of(DType::kBF16, true), alone = plan_of(DType::kBF16, false);
  CHECK(plan.chunk == 512);
  CHECK(plan.d_hidden - plan.logits == size_t{512} * 151936 * 2);
  CHECK(alone.bytes < (size_t{16} << 20));
}

// A chunk of fewer rows has fewer tiles, so its products are split more.
TEST_CASE("cuda linear_cross_entropy: scratch holds the products of every length of a chunk") {
  bool shorter_needs_more = false;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int multiprocessors : {4, 46, 132}) {
      for (const int64_t vocab : {500, 4000, 32000}) {
        for (const int64_t rows : {64, 256, 1000}) {
          LinearCrossEntropyArgs args;
          args.hidden = TensorView(nullptr, dtype, {rows, 768});
          args.d_hidden = TensorView(nullptr, DType::kF32, {rows, 768});
          args.weight = {nullptr, dtype, vocab, 768};
          const auto plan = cuda::PlanLinearCrossEntropy(args, multiprocessors);
          const size_t space = plan.bytes - plan.product;
          const auto needed = [&](int64_t m) {
            const auto bytes = [&](const cuda::GemmProblem& product) {
              return cuda::PlanGemm("gemm", product, multiprocessors).scratch_bytes;
            };
            return std::max(bytes(plan.Logits(m, vocab)), bytes(plan.HiddenGradient(m, vocab)));
          };
          for (int64_t m = plan.kRowStep; m <= plan.chunk; m += plan.kRowStep) {
            CAPTURE(m);
            CHECK(needed(m) <= space);
            const int64_t columns =
                cuda::PartColumns(cuda::PlanGemm("gemm", plan.Logits(m, vocab), multiprocessors));
            if (dtype == DType::kBF16)
              CHECK(static_cast<size_t>(m * CeilDiv(vocab, columns) * 12) <=
                    plan.product - plan.parts);
            shorter_needs_more |= needed(m) > needed(plan.chunk);
          }
        }
      }
    }
  }
  CHECK(shorter_needs_more);
}

}  // namespace
}  // namespace lora::test
