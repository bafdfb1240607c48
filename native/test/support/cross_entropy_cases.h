// Lists the cases of cross_entropy and bounds them against the reference. With u the unit roundoff
// of f32, exp errs by (2 + |x − max|)·u, and its sum over a block of at most 4096 logits, in lanes,
// by less than 4·√4096·u; blocks are summed in double.
#pragma once

#include <cmath>
#include <vector>

#include "core/ops/backend.h"
#include "test/support/run.h"
#include "test/support/tensors.h"

namespace lora::test {

constexpr double kSumError = 4 * 64 * UnitRoundoff(DType::kF32);

struct CrossEntropyProblem {
  Tensor logits, labels, g;
  // `each`: rows have gradients of their own.
  CrossEntropyProblem(DType dtype, int64_t rows, int64_t vocab, double deviation, bool ignore,
                      bool each = false) {
    logits = Normal(dtype, {rows, vocab}, 1, deviation);
    labels = Integers(DType::kI32, {rows}, 2, 0, static_cast<int>(vocab) - 1);
    for (int64_t i = 0; ignore && i < rows; ++i) {
      if (i % 3 == 1) labels.Set(i, -100);
    }
    g = each ? Normal(DType::kF32, {rows}, 3) : Of(DType::kF32, {1}, {0.375});
  }
};

struct CrossEntropyOutputs {
  Tensor loss{DType::kF32, {1}}, count{DType::kF32, {1}}, lse, dlogits, losses, entropies;
  explicit CrossEntropyOutputs(const CrossEntropyProblem& p)
      : lse(DType::kF32, {p.labels.numel()}),
        dlogits(p.logits.dtype(), p.logits.shape()),
        losses(DType::kF32, {p.labels.numel()}),
        entropies(DType::kF32, {p.labels.numel()}) {}
};

inline CrossEntropyForwardArgs ForwardArgs(const CrossEntropyProblem& p,
                                           const CrossEntropyOutputs& out) {
  return {p.logits, p.labels, out.loss, out.count, out.lse, {}, {}};
}
// Also gives the values of rows.
inline CrossEntropyForwardArgs RowArgs(const CrossEntropyProblem& p,
                                       const CrossEntropyOutputs& out) {
  return {p.logits, p.labels, out.loss, out.count, out.lse, out.losses, out.entropies};
}
inline CrossEntropyBackwardArgs BackwardArgs(const CrossEntropyProblem& p, const Tensor& lse,
                                             const CrossEntropyOutputs& out) {
  return {p.logits, p.labels, lse, p.g, out.dlogits};
}

// Holds what the reference gives, and how far off an implementation in f32 may be.
struct CrossEntropyExpected {
  CrossEntropyOutputs out;
  double loss_bound;
  std::vector<double> lse_bounds, gradient_bounds, losses_bounds, entropies_bounds;

  explicit CrossEntropyExpected(const CrossEntropyProblem& p) : out(p) {
    constexpr double kU = UnitRoundoff(DType::kF32);
    Run(ReferenceBackend(), RowArgs(p, out));
    Run(ReferenceBackend(), BackwardArgs(p, out.lse, out));
    const int64_t rows = p.logits.shape()[0], vocab = p.logits.shape()[1];
    loss_bound = kU * std::fabs(out.loss.at(0)) * 2;
    for (int64_t row = 0; row < rows; ++row) {
      const double lse = out.lse.at(row);
      double weighted = 0;  // Σ p·|error of exp|
      double entropy = 0;   // Σ p·|lse − x|·(1 + |error of exp|)
      const double g = std::fabs(p.g.at(p.g.numel() == 1 ? 0 : row));
      for (int64_t c = 0; c < vocab; ++c) {
        const double x = p.logits.at(row * vocab + c);
        // Of exp(x − lse), relative to it: of the subtraction, of exp.
        const double error = kU * (3 + std::fabs(x - lse) + std::fabs(lse));
        weighted += std::exp(x - lse) * error;
        entropy += std::exp(x - lse) * std::fabs(lse - x) * (error + 2 * kSumError);
        const double exact = out.dlogits.at(row * vocab + c);
        const bool counts = p.labels.at(row) != -100;
        gradient_bounds.push_back(counts ? g * (std::exp(x - lse) * error + kU) +
                                               2 * UnitRoundoff(p.logits.dtype()) * std::fabs(exact)
                                         : 0);
      }
      lse_bounds.push_back(weighted + kSumError + 2 * kU * std::fabs(lse));
      const bool counts = p.labels.at(row) != -100;
      const double own = weighted + kSumError;
      if (counts) loss_bound += own;
      losses_bounds.push_back(counts ? own + 2 * kU * std::fabs(out.losses.at(row)) : 0);
      entropies_bounds.push_back(
          counts ? entropy + (1 + out.entropies.at(row)) * own + 2 * kU * std::fabs(lse) : 0);
    }
  }
};

}  // namespace lora::test
