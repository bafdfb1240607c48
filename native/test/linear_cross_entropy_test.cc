// linear_cross_entropy on the CPU against the reference, on every instruction set that is usable
// here. With u the unit roundoff of f32, a logit errs by 4·√dim·u·‖h‖‖w‖, exp and its sum as in
// cross_entropy_test, the gradient of a logit is rounded to the activation dtype, and the sum over
// the vocabulary errs by 4·√vocab·u of its absolute terms.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
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
  Tensor hidden, weight, labels;
  Problem(DType dtype, int64_t rows, int64_t dim, int64_t vocab) {
    hidden = Normal(dtype, {rows, dim}, 1);
    weight = Normal(dtype, {vocab, dim}, 2, 0.5);
    labels = Integers(DType::kI32, {rows}, 3, 0, static_cast<int>(vocab) - 1);
  }
};

struct Outputs {
  Tensor loss{DType::kF32, {1}}, count{DType::kF32, {1}}, d_hidden;
  explicit Outputs(const Problem& p) : d_hidden(DType::kF32, p.hidden.shape()) {}
};

LinearCrossEntropyArgs ArgsOf(const Problem& p, const FrozenWeight& w, const Outputs& out) {
  return {p.hidden, w.forward(), w.backward(), p.labels, out.loss, out.count, out.d_hidden};
}

struct Bounds {
  double loss = 0;
  std::vector<double> d_hidden;
};
Bounds BoundsOf(const Problem& p, const Outputs& expected) {
  const int64_t rows = p.hidden.shape()[0], dim = p.hidden.shape()[1], vocab = p.weight.shape()[0];
  const auto h = p.hidden.Values(), w = p.weight.Values();
  const double dot_error = 4 * std::sqrt(static_cast<double>(dim)) * kU;
  const double gradient_error =
      4 * std::sqrt(static_cast<double>(vocab)) * kU +
      (p.hidden.dtype() == DType::kF32 ? 0 : UnitRoundoff(p.hidden.dtype()));
  Bounds bounds;
  bounds.loss = 2 * kU * std::fabs(expected.loss.at(0));
  bounds.d_hidden.assign(h.size(), 0.0);
  for (int64_t row = 0; row < rows; ++row) {
    if (p.labels.at(row) == -100) continue;
    const double* x = h.data() + row * dim;
    std::vector<double> logits, errors;
    double sum = 0, weighted = 0;
    for (int64_t c = 0; c < vocab; ++c) {
      const double* y = w.data() + c * dim;
      double dot = 0, xx = 0, yy = 0;
      for (int64_t n = 0; n < dim; ++n) {
        dot += x[n] * y[n];
        xx += x[n] * x[n];
        yy += y[n] * y[n];
      }
      logits.push_back(dot);
      errors.push_back(dot_error * std::sqrt(xx * yy));
      sum += std::exp(dot);
    }
    const double lse = std::log(sum);
    const auto error = [&](size_t c) {  // of exp(logit − lse), without the error of lse
      return errors[c] + kU * (3 + std::fabs(logits[c] - lse) + std::fabs(lse));
    };
    for (size_t c = 0; c < logits.size(); ++c) weighted += std::exp(logits[c] - lse) * error(c);
    const size_t label = static_cast<size_t>(p.labels.at(row));
    bounds.loss += weighted + kSumError + errors[label];
    for (size_t c = 0; c < logits.size(); ++c) {
      const double probability = std::exp(logits[c] - lse);
      const double g = probability - (c == label ? 1 : 0);
      const double g_error = probability * (error(c) + weighted + kSumError) + kU * std::fabs(g) +
                             gradient_error * std::fabs(g);
      for (int64_t n = 0; n < dim; ++n) {
        bounds.d_hidden[static_cast<size_t>(row * dim + n)] +=
            g_error * std::fabs(w[c * static_cast<size_t>(dim) + static_cast<size_t>(n)]);
      }
    }
  }
  for (size_t i = 0; i < h.size(); ++i) {
    bounds.d_hidden[i] += 2 * kU * std::fabs(expected.d_hidden.at(static_cast<int64_t>(i)));
  }
  return bounds;
}

void CheckLinearCrossEntropy(const Problem& p) {
  CAPTURE(NameOf(p.hidden.dtype()));
  CAPTURE(Text(p.hidden.shape()));
  CAPTURE(Text(p.weight.shape()));
  const Outputs expected(p);
  {
    const std::unique_ptr<Context> context = ReferenceBackend().create_context(1);
    const FrozenWeight weight(ReferenceBackend(), p.weight, *context);
    Run(ReferenceBackend().linear_cross_entropy, ArgsOf(p, weight, expected), *context);
  }
  const Bounds bounds = BoundsOf(p, expected);
  ForEachSimdTarget([&] {
    for (const int threads : {1, 2, 3}) {
      CAPTURE(threads);
      const std::unique_ptr<Context> context = CpuBackend().create_context(threads);
      const FrozenWeight weight(CpuBackend(), p.weight, *context);
      const Outputs first(p), second(p);
      for (const Outputs* out : {&first, &second}) {
        Run(CpuBackend().linear_cross_entropy, ArgsOf(p, weight, *out), *context);
        CHECK((out->loss.intact() && out->count.intact() && out->d_hidden.intact()));
      }
      CHECK_CLOSE(first.loss, expected.loss, Tolerance{bounds.loss});
      CHECK(first.count.at(0) == expected.count.at(0));
      CHECK_CLOSE(first.d_hidden, expected.d_hidden, bounds.d_hidden);
      CHECK_IDENTICAL(second.loss, first.loss);
      CHECK_IDENTICAL(second.d_hidden, first.d_hidden);
      Outputs without(p);
      LinearCrossEntropyArgs args = ArgsOf(p, weight, without);
      args.d_hidden = TensorView();
      args.weight_bwd = PackedView();
      Run(CpuBackend().linear_cross_entropy, args, *context);
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
  Run(CpuBackend().linear_cross_entropy, ArgsOf(whole, weight, all), *context);
  double loss = 0, count = 0;
  for (const int64_t begin : {0, 100, 200}) {
    Problem part = whole;
    part.hidden = Tensor(DType::kF32, {100, kDim});
    part.labels = Tensor(DType::kI32, {100});
    for (int64_t i = 0; i < 100 * kDim; ++i) part.hidden.Set(i, whole.hidden.at(begin * kDim + i));
    for (int64_t i = 0; i < 100; ++i) part.labels.Set(i, whole.labels.at(begin + i));
    const Outputs out(part);
    Run(CpuBackend().linear_cross_entropy, ArgsOf(part, weight, out), *context);
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
  CHECK(CpuBackend().linear_cross_entropy.scratch_bytes(args, 4) < size_t{64} << 20);
}

std::string Failure(const Problem& p) {
  const std::unique_ptr<Context> context = CpuBackend().create_context(1);
  const FrozenWeight weight(CpuBackend(), p.weight, *context);
  const Outputs out(p);
  try {
    Run(CpuBackend().linear_cross_entropy, ArgsOf(p, weight, out), *context);
  } catch (const Error& error) {
    return error.code() + ' ' + error.what();
  }
  return "no error";
}

TEST_CASE("linear_cross_entropy names a label that is no token") {
  Problem p(DType::kF32, 3, 4, 10);
  p.labels = Ints({3}, {4, 10, 0});
  CHECK(Failure(p) ==
        "ERR_DATA [linear_cross_entropy] expected labels from 0 to 9, or -100, but received 10 at "
        "row 1");
  p.labels = Ints({3}, {-100, -100, -100});
  CHECK(Failure(p) ==
        "ERR_DATA [linear_cross_entropy] expected at least one label that is not -100");
}

}  // namespace
}  // namespace lora::test
