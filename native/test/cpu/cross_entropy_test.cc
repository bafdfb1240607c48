// cross_entropy on the CPU against the reference, on every instruction set that is usable here.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <memory>

#include "core/ops/backend.h"
#include "test/support/cross_entropy_cases.h"
#include "test/support/simd_targets.h"

namespace lora::test {
namespace {

constexpr double kU = 1.0 / 16777216;

using Problem = CrossEntropyProblem;
using Outputs = CrossEntropyOutputs;

void CheckCrossEntropy(DType dtype, int64_t rows, int64_t vocab, double deviation, bool ignore) {
  CAPTURE(NameOf(dtype));
  CAPTURE(rows);
  CAPTURE(vocab);
  CAPTURE(deviation);
  const Problem p(dtype, rows, vocab, deviation, ignore);
  const CrossEntropyExpected expected(p);
  ForEachSimdTarget([&] {
    for (const int threads : {1, 2, 3}) {
      CAPTURE(threads);
      const std::unique_ptr<Context> context = CpuBackend().create_context(threads);
      const Outputs first(p), second(p);
      for (const Outputs* out : {&first, &second}) {
        Run(CpuBackend(), ForwardArgs(p, *out), *context);
        Run(CpuBackend(), BackwardArgs(p, expected.out.lse, *out), *context);
        CHECK(out->intact());
      }
      expected.Check(first);
      CHECK_IDENTICAL(second.loss, first.loss);
      CHECK_IDENTICAL(second.lse, first.lse);
      CHECK_IDENTICAL(second.dlogits, first.dlogits);
      Outputs without(p);
      without.lse = Tensor();
      Run(CpuBackend(), ForwardArgs(p, without), *context);
      CHECK_IDENTICAL(without.loss, first.loss);
    }
  });
}

TEST_CASE("cross_entropy and its gradient agree with the reference") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t vocab :
         {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 65, 130, 511, 4095, 4096, 4097, 9001}) {
      CheckCrossEntropy(dtype, 5, vocab, 2, vocab % 2 == 1);
    }
    CheckCrossEntropy(dtype, 1, 40, 1, false);
    CheckCrossEntropy(dtype, 67, 20, 30, true);
  }
}

TEST_CASE("cross_entropy's maximum may lie in any block") {
  for (const int64_t at : {0, 4095, 4096, 8191, 9000}) {
    Problem p(DType::kF32, 1, 9001, 1, false);
    p.logits.Set(at, 95);
    p.labels.Set(0, 9000 - static_cast<double>(at));
    const Outputs expected(p);
    Run(ReferenceBackend(), ForwardArgs(p, expected));
    ForEachSimdTarget([&] {
      const Outputs out(p);
      Run(CpuBackend(), ForwardArgs(p, out));
      CHECK_CLOSE(out.loss, expected.loss, (Tolerance{kSumError, 4 * kU}));
      CHECK_CLOSE(out.lse, expected.lse, (Tolerance{kSumError, 4 * kU}));
    });
  }
}

TEST_CASE("cross_entropy takes minus infinity as an excluded token, and shows NaN") {
  Problem p(DType::kF32, 2, 19, 1, false);
  p.labels = Ints({2}, {4, 5});
  p.logits.Set(3, -std::numeric_limits<double>::infinity());
  p.logits.Set(19 + 18, std::numeric_limits<double>::quiet_NaN());
  ForEachSimdTarget([&] {
    const Outputs out(p);
    Run(CpuBackend(), ForwardArgs(p, out));
    CHECK(std::isfinite(out.lse.at(0)));
    CHECK(std::isnan(out.lse.at(1)));
    CHECK(std::isnan(out.loss.at(0)));
    Run(CpuBackend(), BackwardArgs(p, out.lse, out));
    CHECK(out.dlogits.at(3) == 0);
    CHECK(std::isfinite(out.dlogits.at(0)));
    CHECK(std::isnan(out.dlogits.at(19)));
  });
}

TEST_CASE("cross_entropy names a label that is no token") {
  CheckCrossEntropyNamesLabels(
      [](const Problem& p, const Outputs& out) { Run(CpuBackend(), ForwardArgs(p, out)); });
}

}  // namespace
}  // namespace lora::test
