// Compares linear_cross_entropy on the CPU with the reference, on every instruction
// set that this machine can run.
#include <doctest/doctest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "core/ops/backend.h"
#include "test/support/linear_cross_entropy_cases.h"
#include "test/support/simd_targets.h"

namespace lora::test {
namespace {

constexpr double kU = 1.0 / 16777216;

using Problem = LinearCrossEntropyProblem;
using Outputs = LinearCrossEntropyOutputs;

void CheckLinearCrossEntropy(const Problem& p) {
  CAPTURE(NameOf(p.hidden.dtype()));
  CAPTURE(Text(p.hidden.shape()));
  CAPTURE(Text(p.weight.shape()));
  const LinearCrossEntropyExpected expected(p);
  ForEachSimdTarget([&] {
    for (const int threads : {1, 2, 3}) {
      CAPTURE(threads);
      const std::unique_ptr<Context> context = CpuBackend().create_context(threads);
      const FrozenWeight weight(CpuBackend(), p.weight, *context);
      const Outputs first(p), second(p);
      for (const Outputs* out : {&first, &second}) {
        Run(CpuBackend(), ArgsOf(p, weight, *out), *context);
        CHECK((out->loss.intact() && out->count.intact() && out->d_hidden.intact()));
      }
      expected.Check(first);
      CHECK_IDENTICAL(second.loss, first.loss);
      CHECK_IDENTICAL(second.d_hidden, first.d_hidden);
      Outputs without(p);
      LinearCrossEntropyArgs args = ArgsOf(p, weight, without);
      args.d_hidden = TensorView();
      Run(CpuBackend(), args, *context);
      CHECK_IDENTICAL(without.loss, first.loss);
    }
  });
}

TEST_CASE("linear_cross_entropy and its gradient agree with the reference") {
  struct Size {
    int64_t rows, dim, vocab;
  };
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Size size : std::vector<Size>{{1, 1, 1},
                                             {3, 7, 2},
                                             {7, 16, 63},
                                             {64, 24, 64},
                                             {5, 33, 65},
                                             {13, 65, 130},
                                             {17, 48, 1000},
                                             {4, 8, 4096},
                                             {6, 5, 4097},
                                             {3, 9, 9001}}) {
      CheckLinearCrossEntropy(Problem(dtype, size.rows, size.dim, size.vocab));
    }
  }
}

TEST_CASE("linear_cross_entropy leaves out rows without a label") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Problem p(dtype, 11, 20, 70);
    for (const int64_t row : {0, 1, 4, 10}) p.labels.Set(row, -100);
    CheckLinearCrossEntropy(p);
    for (int64_t row = 0; row < 10; ++row) p.labels.Set(row, -100);
    p.labels.Set(10, 69);
    CheckLinearCrossEntropy(p);
  }
}

// More logits than are held at once: each row must come out as if it were computed alone.
TEST_CASE("linear_cross_entropy does not depend on how rows are chunked") {
  constexpr int64_t kRows = 300, kDim = 6, kVocab = 48001;
  Problem whole(DType::kF32, kRows, kDim, kVocab);
  for (int64_t row = 0; row < kRows; row += 11) whole.labels.Set(row, -100);
  const std::unique_ptr<Context> context = CpuBackend().create_context(2);
  const FrozenWeight weight(CpuBackend(), whole.weight, *context);
  const Outputs all(whole);
  Run(CpuBackend(), ArgsOf(whole, weight, all), *context);
  double loss = 0, count = 0;
  for (const int64_t begin : {0, 100, 200}) {
    Problem part = whole;
    part.hidden = Tensor(DType::kF32, {100, kDim});
    part.labels = Tensor(DType::kI32, {100});
    for (int64_t i = 0; i < 100 * kDim; ++i) part.hidden.Set(i, whole.hidden.at(begin * kDim + i));
    for (int64_t i = 0; i < 100; ++i) part.labels.Set(i, whole.labels.at(begin + i));
    const Outputs out(part);
    Run(CpuBackend(), ArgsOf(part, weight, out), *context);
    loss += out.loss.at(0);
    count += out.count.at(0);
    CHECK(std::memcmp(out.d_hidden.view().as<float>(),
                      all.d_hidden.view().as<float>() + begin * kDim,
                      out.d_hidden.view().bytes()) == 0);
  }
  CHECK(all.count.at(0) == count);
  CHECK_CLOSE(all.loss, (Of(DType::kF32, {1}, {loss})), (Tolerance{0, 4 * kU}));
}

TEST_CASE("linear_cross_entropy holds a bounded number of logits") {
  Problem p(DType::kF32, 1, 4, 8);
  TensorView hidden = p.hidden, labels = p.labels;
  hidden.shape = {1 << 20, 4};
  labels.shape = {1 << 20};
  LinearCrossEntropyArgs args;
  args.hidden = hidden;
  args.weight.rows = 150000;
  args.weight.cols = 4;
  args.labels = labels;
  args.d_hidden = hidden;
  CHECK(CpuBackend().op<LinearCrossEntropyArgs>().plan(args, 4).scratch_bytes < size_t{64} << 20);
}

TEST_CASE("linear_cross_entropy names a label that is no token") {
  CheckLinearCrossEntropyNamesLabels([](const Problem& p, const Outputs& out) {
    const std::unique_ptr<Context> context = CpuBackend().create_context(1);
    const FrozenWeight weight(CpuBackend(), p.weight, *context);
    Run(CpuBackend(), ArgsOf(p, weight, out), *context);
  });
}

}  // namespace
}  // namespace lora::test
