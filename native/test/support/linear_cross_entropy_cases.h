// linear_cross_entropy of every backend against the reference. With u the unit roundoff of f32:
//   a logit errs by 4·√dim·u·‖h‖‖w‖, or by what tensor cores do (rounding.h), a capped one by 8·u
//   times the cap beside, and the slope of a cap by 8·u;
//   exp and its sum err as in cross_entropy_cases.h;
//   the gradient of a logit is rounded to the activation dtype, and so may its exponential be;
//   the sum over the vocabulary errs by 4·√vocab·u of its absolute terms, or by what tensor cores
//   do where partial sums get as far as these terms together.
#pragma once

#include <cmath>
#include <memory>
#include <vector>

#include "core/ops/backend.h"
#include "test/support/close.h"
#include "test/support/cross_entropy_cases.h"
#include "test/support/rounding.h"
#include "test/support/run.h"
#include "test/support/tensors.h"

namespace lora::test {

struct LinearCrossEntropyProblem {
  Tensor hidden, weight, labels;
  float scale, cap;
  LinearCrossEntropyProblem(DType dtype, int64_t rows, int64_t dim, int64_t vocab,
                            float logit_scale = 1, float logit_cap = 0)
      : scale(logit_scale), cap(logit_cap) {
    hidden = Normal(dtype, {rows, dim}, 1);
    weight = Normal(dtype, {vocab, dim}, 2, 0.5);
    labels = Integers(DType::kI32, {rows}, 3, 0, static_cast<int>(vocab) - 1);
  }
};

struct LinearCrossEntropyOutputs {
  Tensor loss{DType::kF32, {1}}, count{DType::kF32, {1}}, d_hidden, losses, entropies;
  explicit LinearCrossEntropyOutputs(const LinearCrossEntropyProblem& p)
      : d_hidden(DType::kF32, p.hidden.shape()),
        losses(DType::kF32, p.labels.shape()),
        entropies(DType::kF32, p.labels.shape()) {}
};

inline LinearCrossEntropyArgs ArgsOf(const LinearCrossEntropyProblem& p, const FrozenWeight& w,
                                     const LinearCrossEntropyOutputs& out) {
  return {p.hidden,     w.view(),   p.labels,      out.loss, out.count,
          out.d_hidden, out.losses, out.entropies, p.scale,  p.cap};
}

// What the reference gives, and how far off another implementation may be.
struct LinearCrossEntropyExpected {
  LinearCrossEntropyOutputs out;
  double loss_bound = 0;
  std::vector<double> d_hidden_bounds, losses_bounds, entropies_bounds;

  explicit LinearCrossEntropyExpected(const LinearCrossEntropyProblem& p, bool tensor_cores = false)
      : out(p) {
    const std::unique_ptr<Context> context = ReferenceBackend().create_context(1);
    const FrozenWeight reference_weight(ReferenceBackend(), p.weight, *context);
    Run(ReferenceBackend(), ArgsOf(p, reference_weight, out), *context);
    const int64_t rows = p.hidden.shape()[0], dim = p.hidden.shape()[1],
                  vocab = p.weight.shape()[0];
    const auto h = p.hidden.Values(), w = p.weight.Values();
    const auto chain = [](int64_t terms) { return 4 * std::sqrt(static_cast<double>(terms)) * kU; };
    const double dot_error = tensor_cores ? TensorCoreSumError(dim) : chain(dim);
    const double gradient_error =
        (tensor_cores ? TensorCoreError(vocab) : chain(vocab)) +
        (p.hidden.dtype() == DType::kF32 ? 0 : 2 * UnitRoundoff(p.hidden.dtype()));
    loss_bound = 2 * kU * std::fabs(out.loss.at(0));
    d_hidden_bounds.assign(h.size(), 0.0);
    losses_bounds.assign(static_cast<size_t>(rows), 0.0);
    entropies_bounds = losses_bounds;
    const double scale = p.scale;
    for (int64_t row = 0; row < rows; ++row) {
      if (p.labels.at(row) == -100) continue;
      const double* x = h.data() + row * dim;
      std::vector<double> logits, slopes, errors;
      double sum = 0, weighted = 0;
      for (int64_t c = 0; c < vocab; ++c) {
        const double* y = w.data() + c * dim;
        double dot = 0, xx = 0, yy = 0;
        for (int64_t n = 0; n < dim; ++n) {
          dot += x[n] * y[n];
          xx += x[n] * x[n];
          yy += y[n] * y[n];
        }
        const double part = p.cap == 0 ? 0 : std::tanh(dot / p.cap);
        logits.push_back(scale * (p.cap == 0 ? dot : p.cap * part));
        slopes.push_back(1 - part * part);
        errors.push_back(scale * (dot_error * std::sqrt(xx * yy) + 8 * kU * p.cap) +
                         (scale == 1 ? 0 : kU * std::fabs(scale * dot)));
        sum += std::exp(logits.back());
      }
      const double lse = std::log(sum);
      const auto error = [&](size_t c) {  // of exp(logit − lse), without the error of lse
        return errors[c] + kU * (3 + std::fabs(logits[c] - lse) + std::fabs(lse));
      };
      for (size_t c = 0; c < logits.size(); ++c) weighted += std::exp(logits[c] - lse) * error(c);
      const size_t label = static_cast<size_t>(p.labels.at(row));
      const double own = weighted + kSumError + errors[label];
      loss_bound += own;
      losses_bounds[static_cast<size_t>(row)] = own + 2 * kU * std::fabs(out.losses.at(row));
      // Of p and of lse − logit, whose products are summed.
      double& entropy_bound = entropies_bounds[static_cast<size_t>(row)];
      entropy_bound = weighted + kSumError + 2 * kU * std::fabs(lse);
      for (size_t c = 0; c < logits.size(); ++c)
        entropy_bound +=
            std::exp(logits[c] - lse) *
            (errors[c] + std::fabs(lse - logits[c]) * (error(c) + weighted + 2 * kSumError));
      for (size_t c = 0; c < logits.size(); ++c) {
        const double probability = std::exp(logits[c] - lse);
        const double g = probability - (c == label ? 1 : 0);
        // The slope changes with the logit, too.
        const double slope_error = p.cap == 0 ? 0 : 8 * kU + 2 * errors[c] / (scale * p.cap);
        const double g_error =
            scale * (slopes[c] * (probability * (error(c) + weighted + kSumError) +
                                  2 * kU * std::fabs(g) + gradient_error * std::fabs(g)) +
                     slope_error * std::fabs(g));
        for (int64_t n = 0; n < dim; ++n) {
          d_hidden_bounds[static_cast<size_t>(row * dim + n)] +=
              g_error * std::fabs(w[c * static_cast<size_t>(dim) + static_cast<size_t>(n)]);
        }
      }
    }
    for (size_t i = 0; i < h.size(); ++i) {
      d_hidden_bounds[i] += 2 * kU * std::fabs(out.d_hidden.at(static_cast<int64_t>(i)));
    }
  }
};

}  // namespace lora::test
