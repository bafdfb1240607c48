// Tests how the CPU backend cuts the rows of linear_cross_entropy into chunks.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <memory>

#include "test/support/linear_cross_entropy_cases.h"

namespace lora::test {
namespace {

using Problem = LinearCrossEntropyProblem;
using Outputs = LinearCrossEntropyOutputs;

// More exponentials than are held at once: each row must come out as if it were computed alone.
TEST_CASE("cpu linear_cross_entropy does not depend on how rows are chunked") {
  constexpr int64_t kRows = 300, kDim = 6, kVocab = 100001;
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
  CHECK_CLOSE(all.loss, (Of(DType::kF32, {1}, {loss})),
              (Tolerance{0, 4 * UnitRoundoff(DType::kF32)}));
}

// The first parts of the vocabulary have the logit −∞, and all others are far below 0.
TEST_CASE("cpu linear_cross_entropy gives tokens that cannot be a gradient of 0") {
  constexpr int64_t kDim = 4, kVocab = 12001, kImpossible = 8192;
  Problem p(DType::kF32, 3, kDim, kVocab);
  for (int64_t i = 0; i < 3 * kDim; ++i) p.hidden.Set(i, 10);
  for (int64_t i = 0; i < kVocab * kDim; ++i) {
    p.weight.Set(i, i < kImpossible * kDim ? -3e38 : i % kDim == 0 ? -20 - 0.001 * (i % 7) : 0);
  }
  for (int64_t row = 0; row < 3; ++row) p.labels.Set(row, kVocab - 1 - row);
  const std::unique_ptr<Context> context = CpuBackend().create_context(2);
  const FrozenWeight weight(CpuBackend(), p.weight, *context);
  const Outputs out(p);
  Run(CpuBackend(), ArgsOf(p, weight, out), *context);
  CHECK(std::isfinite(out.loss.at(0)));
  for (int64_t i = 0; i < 3 * kDim; ++i) {
    CHECK(std::fabs(out.d_hidden.at(i)) < 0.01);
  }
}

TEST_CASE("cpu linear_cross_entropy holds a bounded number of exponentials") {
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
  CHECK(CpuBackend().op<LinearCrossEntropyArgs>().plan(args, 4).scratch_bytes < size_t{112} << 20);
}

}  // namespace
}  // namespace lora::test
