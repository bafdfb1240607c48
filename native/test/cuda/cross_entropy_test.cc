// cross_entropy of the CUDA backend against the reference.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "test/support/cross_entropy_cases.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

using Problem = CrossEntropyProblem;
using Outputs = CrossEntropyOutputs;

constexpr double kU = UnitRoundoff(DType::kF32);
int turn = 0;

void RunForward(const Problem& p, const Outputs& out, Context& context) {
  Run(MirroredCuda(), ForwardArgs(p, out), context);
}
void RunBackward(const Problem& p, const Tensor& lse, const Outputs& out, Context& context) {
  Run(MirroredCuda(), BackwardArgs(p, lse, out), context);
}

void CheckCrossEntropy(DType dtype, int64_t rows, int64_t vocab, double deviation, bool ignore) {
  CAPTURE(NameOf(dtype));
  CAPTURE(rows);
  CAPTURE(vocab);
  CAPTURE(deviation);
  const Problem p(dtype, rows, vocab, deviation, ignore);
  const CrossEntropyExpected expected(p);
  for (const int64_t skew : {0, 1}) {
    CAPTURE(skew);
    MirrorContext context = NthContext(turn++, skew);
    Outputs out(p);
    RunForward(p, out, context);
    RunBackward(p, expected.out.lse, out, context);
    expected.Check(out);
    // How a row is cut into vectors depends on where it lies: the order of its sum does too.
    MirrorContext another = NthContext(turn + 3, skew);
    Outputs again(p);
    RunForward(p, again, another);
    RunBackward(p, expected.out.lse, again, another);
    CHECK_IDENTICAL(again.loss, out.loss);
    CHECK_IDENTICAL(again.lse, out.lse);
    CHECK_IDENTICAL(again.dlogits, out.dlogits);
    again.lse = Tensor();
    RunForward(p, again, another);
    CHECK_IDENTICAL(again.loss, out.loss);
  }
}

TEST_CASE("cuda cross_entropy and its gradient agree with the reference") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t vocab : {1, 2, 3, 7, 8, 9, 16, 17, 33, 65, 130, 511, 2047, 2048, 2049}) {
      CheckCrossEntropy(dtype, 5, vocab, 2, vocab % 2 == 1);
    }
    CheckCrossEntropy(dtype, 2, 8191, 2, false);
    CheckCrossEntropy(dtype, 2, 8193, 2, false);
    CheckCrossEntropy(dtype, 1, 40, 1, false);
    CheckCrossEntropy(dtype, 67, 20, 30, true);
  }
}

TEST_CASE("cuda cross_entropy: more rows than the sum has threads, each counted once") {
  Problem p(DType::kF32, 1100, 2, 0, false);  // the loss of a row is log 2
  for (int64_t row = 0; row < 1100; row += 7) p.labels.Set(row, -100);
  MirrorContext context = NthContext(turn++);
  const Outputs out(p);
  RunForward(p, out, context);
  CHECK(out.count.at(0) == 1100 - 158);
  CHECK(std::fabs(out.loss.at(0) - 942 * std::log(2)) <= 942 * 2 * kU);
}

TEST_CASE("cuda cross_entropy's maximum may lie anywhere, and logits may rise or fall") {
  for (const int64_t at : {0, 1, 2047, 2048, 4095, 4999}) {
    Problem p(DType::kF32, 1, 5000, 1, false);
    p.logits.Set(at, 95);
    p.labels.Set(0, 4999 - static_cast<double>(at));
    MirrorContext context = NthContext(turn++);
    const Outputs out(p), expected(p);
    Run(ReferenceBackend(), ForwardArgs(p, expected));
    RunForward(p, out, context);
    CHECK_CLOSE(out.loss, expected.loss, (Tolerance{kSumError, 4 * kU}));
    CHECK_CLOSE(out.lse, expected.lse, (Tolerance{kSumError, 4 * kU}));
  }
  for (const double slope : {1e-3, -1e-3, 0.02, 0.0}) {  // rising: every vector rescales
    CAPTURE(slope);
    Problem p(DType::kF32, 1, 20000, 1, false);
    for (int64_t i = 0; i < 20000; ++i) p.logits.Set(i, slope * static_cast<double>(i));
    MirrorContext context = NthContext(turn++);
    const CrossEntropyExpected expected(p);
    const Outputs out(p);
    RunForward(p, out, context);
    RunBackward(p, expected.out.lse, out, context);
    expected.Check(out);
  }
}

TEST_CASE("cuda cross_entropy takes minus infinity as an excluded token, and shows NaN") {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Problem p(DType::kF32, 5, 19, 1, false);
  p.labels = Ints({5}, {4, 5, 6, -100, 7});
  p.logits.Set(3, -kInfinity);
  p.logits.Set(19 + 18, std::numeric_limits<double>::quiet_NaN());
  for (int64_t i = 0; i < 19; ++i) p.logits.Set(2 * 19 + i, -kInfinity);
  p.logits.Set(3 * 19 + 1, std::numeric_limits<double>::quiet_NaN());  // does not count
  p.logits.Set(4 * 19 + 1, kInfinity);
  MirrorContext context = NthContext(turn++);
  const Outputs out(p);
  RunForward(p, out, context);
  CHECK(std::isfinite(out.lse.at(0)));
  CHECK(std::isnan(out.lse.at(1)));
  CHECK(out.lse.at(2) == -kInfinity);
  CHECK(std::isnan(out.lse.at(3)));
  CHECK(out.lse.at(4) == kInfinity);
  CHECK(std::isnan(out.loss.at(0)));
  RunBackward(p, out.lse, out, context);
  CHECK(out.dlogits.at(3) == 0);
  CHECK(std::isfinite(out.dlogits.at(0)));
  CHECK(std::isnan(out.dlogits.at(19)));
  for (int64_t i = 3 * 19; i < 4 * 19; ++i) CHECK(out.dlogits.at(i) == 0);
  // A row that does not count is not in the loss either.
  p.labels = Ints({5}, {4, -100, -100, -100, -100});
  RunForward(p, out, context);
  CHECK(std::isfinite(out.loss.at(0)));
}

TEST_CASE("cuda cross_entropy's gradient may take the place of the logits") {
  const Problem p(DType::kBF16, 3, 3001, 2, true);
  const CrossEntropyExpected expected(p);
  Problem in_place = p;
  CrossEntropyBackwardArgs args = BackwardArgs(in_place, expected.out.lse, expected.out);
  args.dlogits = in_place.logits;
  MirrorContext context = NthContext(turn++, 1);
  Run(MirroredCuda(), args, context);
  CHECK_CLOSE(in_place.logits, expected.out.dlogits, expected.gradient_bounds);
}

TEST_CASE("cuda cross_entropy names a label that is no token") {
  MirrorContext context = NthContext(turn++);
  CheckCrossEntropyNamesLabels(
      [&](const Problem& p, const Outputs& out) { RunForward(p, out, context); });
  Problem p(DType::kF32, 3, 10, 1, false);
  const Outputs out(p);
  const Tensor lse = Zeros(DType::kF32, {3});
  p.labels = Ints({3}, {1, 2, 10});
  CHECK_THROWS_WITH_AS(
      RunBackward(p, lse, out, context),
      "[cross_entropy] expected labels from 0 to 9, or -100, but received 10 at row 2", Error);
  p.labels = Ints({3}, {-100, -100, -100});
  RunBackward(p, lse, out, context);
  CHECK_IDENTICAL(out.dlogits, Zeros(DType::kF32, {3, 10}));
}

}  // namespace
}  // namespace lora::test
