// linear_cross_entropy of the CUDA backend against the reference.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "backend/cuda/gemm_plan.h"
#include "backend/cuda/linear_cross_entropy_plan.h"
#include "test/support/linear_cross_entropy_cases.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

using Problem = LinearCrossEntropyProblem;
using Outputs = LinearCrossEntropyOutputs;

constexpr double kU = UnitRoundoff(DType::kF32);
int turn = 0;

// Tensor cores truncate when they align what they add.
double AccumulationRoundoff(DType dtype) { return dtype == DType::kF32 ? kU : 1.0 / (1 << 18); }

void RunOn(const Problem& p, const Outputs& out, Context& context, bool gradient = true) {
  const FrozenWeight weight(MirroredCuda(), p.weight, context);
  LinearCrossEntropyArgs args = ArgsOf(p, weight, out);
  if (!gradient) args.d_hidden = TensorView();
  Run(MirroredCuda(), args, context);
}

void CheckLinearCrossEntropy(const Problem& p, int64_t skew) {
  CAPTURE(NameOf(p.hidden.dtype()));
  CAPTURE(Text(p.hidden.shape()));
  CAPTURE(Text(p.weight.shape()));
  CAPTURE(skew);
  const LinearCrossEntropyExpected expected(p, AccumulationRoundoff(p.hidden.dtype()));
  MirrorContext context = NthContext(turn++, skew);
  const Outputs out(p), again(p), without(p);
  RunOn(p, out, context);
  expected.Check(out);
  MirrorContext another = NthContext(turn + 3, skew);
  RunOn(p, again, another);
  CHECK_IDENTICAL(again.loss, out.loss);
  CHECK_IDENTICAL(again.d_hidden, out.d_hidden);
  RunOn(p, without, another, false);
  CHECK_IDENTICAL(without.loss, out.loss);
}

TEST_CASE("cuda linear_cross_entropy and its gradient agree with the reference") {
  struct Size {
    int64_t rows, dim, vocab;
  };
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    int64_t skew = 0;
    for (const Size size : std::vector<Size>{{1, 1, 1},
                                             {3, 7, 2},
                                             {7, 16, 63},
                                             {64, 24, 64},
                                             {5, 33, 65},
                                             {65, 8, 130},
                                             {13, 65, 130},
                                             {17, 48, 500},
                                             {3, 9, 2049}}) {
      CheckLinearCrossEntropy(Problem(dtype, size.rows, size.dim, size.vocab), skew);
      skew = 1 - skew;
    }
  }
}

TEST_CASE("cuda linear_cross_entropy leaves out rows without a label") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Problem p(dtype, 11, 20, 70);
    for (const int64_t row : {0, 1, 4, 10}) p.labels.Set(row, -100);
    // What does not count is not looked at either.
    p.hidden.Set(4 * 20 + 3, std::nan(""));
    CheckLinearCrossEntropy(p, 0);
    for (int64_t row = 0; row < 10; ++row) p.labels.Set(row, -100);
    p.labels.Set(10, 69);
    CheckLinearCrossEntropy(p, 1);
  }
}

TEST_CASE("cuda linear_cross_entropy: many rows are cut into chunks") {
  Problem p(DType::kF32, 1200, 5, 7);  // of which 1090 count: more than a chunk takes
  for (int64_t row = 0; row < 1200; row += 11) p.labels.Set(row, -100);
  CheckLinearCrossEntropy(p, 0);
}

TEST_CASE("cuda linear_cross_entropy: chunks cover all rows that count, and scratch is bounded") {
  Problem p(DType::kBF16, 1, 4, 8);
  LinearCrossEntropyArgs args;
  args.hidden = p.hidden;
  args.weight.dtype = DType::kBF16;
  args.d_hidden = Outputs(p).d_hidden;
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
            return std::max(bytes(plan.Logits(m)), bytes(plan.HiddenGradient(m)));
          };
          for (int64_t m = plan.kRowStep; m <= plan.chunk; m += plan.kRowStep) {
            CAPTURE(m);
            CHECK(needed(m) <= space);
            shorter_needs_more |= needed(m) > needed(plan.chunk);
          }
        }
      }
    }
  }
  CHECK(shorter_needs_more);
}

TEST_CASE("cuda linear_cross_entropy names a label that is no token") {
  MirrorContext context = NthContext(turn++);
  CheckLinearCrossEntropyNamesLabels(
      [&](const Problem& p, const Outputs& out) { RunOn(p, out, context); });
}

}  // namespace
}  // namespace lora::test
