// cross_entropy on the CPU against the reference, on every instruction set that is usable here.
// With u the unit roundoff of f32: exp errs by (2 + |x − max|)·u, and its sum over a block of at
// most 4096 logits, in lanes, by less than 4·√4096·u; blocks are summed in double.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/error.h"
#include "test/support/close.h"
#include "test/support/run.h"
#include "test/support/simd_targets.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

constexpr double kU = 1.0 / 16777216;
constexpr double kSumError = 4 * 64 * kU;

struct Problem {
  Tensor logits, labels, g;
  Problem(DType dtype, int64_t rows, int64_t vocab, double deviation, bool ignore) {
    logits = Normal(dtype, {rows, vocab}, 1, deviation);
    labels = Integers(DType::kI32, {rows}, 2, 0, static_cast<int>(vocab) - 1);
    for (int64_t i = 0; ignore && i < rows; ++i) {
      if (i % 3 == 1) labels.Set(i, -100);
    }
    g = Of(DType::kF32, {1}, {0.375});
  }
};

struct Outputs {
  Tensor loss{DType::kF32, {1}}, count{DType::kF32, {1}}, lse, dlogits;
  explicit Outputs(const Problem& p)
      : lse(DType::kF32, {p.labels.numel()}), dlogits(p.logits.dtype(), p.logits.shape()) {}
};

CrossEntropyForwardArgs ForwardArgs(const Problem& p, const Outputs& out) {
  return {p.logits, p.labels, out.loss, out.count, out.lse};
}
CrossEntropyBackwardArgs BackwardArgs(const Problem& p, const Tensor& lse, const Outputs& out) {
  return {p.logits, p.labels, lse, p.g, out.dlogits};
}

// The error of exp(x − lse) relative to it: of the subtraction, of exp.
double ExpError(double x, double lse) { return kU * (3 + std::fabs(x - lse) + std::fabs(lse)); }

void CheckCrossEntropy(DType dtype, int64_t rows, int64_t vocab, double deviation, bool ignore) {
  CAPTURE(NameOf(dtype));
  CAPTURE(rows);
  CAPTURE(vocab);
  CAPTURE(deviation);
  const Problem p(dtype, rows, vocab, deviation, ignore);
  const Outputs expected(p);
  Run(ReferenceBackend(), &Backend::cross_entropy_forward, ForwardArgs(p, expected));
  Run(ReferenceBackend(), &Backend::cross_entropy_backward,
      BackwardArgs(p, expected.lse, expected));
  std::vector<double> lse_bounds, gradient_bounds;
  double loss_bound = kU * std::fabs(expected.loss.at(0)) * 2;
  for (int64_t row = 0; row < rows; ++row) {
    const double lse = expected.lse.at(row);
    double weighted = 0;  // Σ p·|error of exp|
    for (int64_t c = 0; c < vocab; ++c) {
      const double x = p.logits.at(row * vocab + c), error = ExpError(x, lse);
      weighted += std::exp(x - lse) * error;
      const double exact = expected.dlogits.at(row * vocab + c);
      const bool counts = p.labels.at(row) != -100;
      gradient_bounds.push_back(counts ? 0.375 * (std::exp(x - lse) * error + kU) +
                                             2 * UnitRoundoff(dtype) * std::fabs(exact)
                                       : 0);
    }
    lse_bounds.push_back(weighted + kSumError + 2 * kU * std::fabs(lse));
    if (p.labels.at(row) != -100) loss_bound += weighted + kSumError;
  }
  ForEachSimdTarget([&] {
    for (const int threads : {1, 2, 3}) {
      CAPTURE(threads);
      const std::unique_ptr<Context> context = CpuBackend().create_context(threads);
      const Outputs first(p), second(p);
      for (const Outputs* out : {&first, &second}) {
        Run(CpuBackend().cross_entropy_forward, ForwardArgs(p, *out), *context);
        Run(CpuBackend().cross_entropy_backward, BackwardArgs(p, expected.lse, *out), *context);
        CHECK((out->loss.intact() && out->lse.intact() && out->dlogits.intact()));
      }
      CHECK_CLOSE(first.loss, expected.loss, Tolerance{loss_bound});
      CHECK(first.count.at(0) == expected.count.at(0));
      CHECK_CLOSE(first.lse, expected.lse, lse_bounds);
      CHECK_CLOSE(first.dlogits, expected.dlogits, gradient_bounds);
      CHECK_IDENTICAL(second.loss, first.loss);
      CHECK_IDENTICAL(second.lse, first.lse);
      CHECK_IDENTICAL(second.dlogits, first.dlogits);
      Outputs without(p);
      without.lse = Tensor();
      Run(CpuBackend().cross_entropy_forward, ForwardArgs(p, without), *context);
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
    Run(ReferenceBackend(), &Backend::cross_entropy_forward, ForwardArgs(p, expected));
    ForEachSimdTarget([&] {
      const Outputs out(p);
      Run(CpuBackend(), &Backend::cross_entropy_forward, ForwardArgs(p, out));
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
    Run(CpuBackend(), &Backend::cross_entropy_forward, ForwardArgs(p, out));
    CHECK(std::isfinite(out.lse.at(0)));
    CHECK(std::isnan(out.lse.at(1)));
    CHECK(std::isnan(out.loss.at(0)));
    Run(CpuBackend(), &Backend::cross_entropy_backward, BackwardArgs(p, out.lse, out));
    CHECK(out.dlogits.at(3) == 0);
    CHECK(std::isfinite(out.dlogits.at(0)));
    CHECK(std::isnan(out.dlogits.at(19)));
  });
}

std::string Failure(const Problem& p) {
  const Outputs out(p);
  try {
    Run(CpuBackend(), &Backend::cross_entropy_forward, ForwardArgs(p, out));
  } catch (const Error& error) {
    return error.code() + ' ' + error.what();
  }
  return "no error";
}

TEST_CASE("cross_entropy names a label that is no token") {
  Problem p(DType::kF32, 3, 10, 1, false);
  p.labels = Ints({3}, {4, -100, 10});
  CHECK(Failure(p) ==
        "ERR_DATA [cross_entropy] expected labels from 0 to 9, or -100, but received 10 at row 2");
  p.labels = Ints({3}, {4, -1, 0});
  CHECK(Failure(p) ==
        "ERR_DATA [cross_entropy] expected labels from 0 to 9, or -100, but received -1 at row 1");
  p.labels = Ints({3}, {-100, -100, -100});
  CHECK(Failure(p) == "ERR_DATA [cross_entropy] expected at least one label that is not -100");
  CHECK(Failure(Problem(DType::kF32, 0, 10, 1, false)) ==
        "ERR_DATA [cross_entropy] expected at least one label that is not -100");
}

}  // namespace
}  // namespace lora::test
