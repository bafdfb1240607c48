// Gathers the bounds of a result of lora_linear (lora_problem.h) from its parts: errors of
// accumulation, roundings of h and u, and the last rounding.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "test/support/close.h"
#include "test/support/tensors.h"

namespace lora::test {

using Vector = std::vector<double>;

inline double Norm(const Vector& v) {
  double square = 0;
  for (const double value : v) square += value * value;
  return std::sqrt(square);
}

// The terms of a sum, each with a factor that is rounded.
class RoundedTerms {
 public:
  void Add(double term) {
    absolute_ += std::fabs(term);
    square_ += term * term;
  }
  void Add(const RoundedTerms& terms, double factor) {
    absolute_ += std::fabs(factor) * terms.absolute_;
    square_ += factor * factor * terms.square_;
  }
  // What the sum errs by, in units of one rounding: never more than all terms together, and about 7
  // standard deviations of independent errors.
  double bound() const { return std::min(absolute_, 4 * std::sqrt(square_)); }
  double square() const { return square_; }

 private:
  double absolute_ = 0, square_ = 0;
};

// The bounds of a result, gathered part by part.
class Gathered {
 public:
  explicit Gathered(int64_t elements) : sums_(static_cast<size_t>(elements), 0.0), part_(sums_) {}

  // An error of accumulation.
  void AddSum(int64_t i, double error) { sums_[static_cast<size_t>(i)] += error; }
  // Of roundings by u.
  void AddRoundings(int64_t i, double u, const RoundedTerms& terms) {
    part_[static_cast<size_t>(i)] += u * terms.bound();
    low_square_ += u * u * terms.square();
  }
  // Of a low-rank term whose vector and matrix are rounded: Σᵣ|term| and Σᵣ term².
  void AddLowRank(int64_t i, double u, double absolute, double square) {
    part_[static_cast<size_t>(i)] += u * absolute;
    // Two roundings of u / 2 each.
    low_square_ += u * u / 2 * square;
  }
  // Of y and dx: the last rounding, to a value of that size. `independent`: how many low-rank
  // products there are that do not share a rounded factor.
  Bounds Finish(const Tensor& expected, double u_out, int64_t independent) const {
    Bounds bounds{sums_, 0};
    double out_square = 0;
    for (size_t i = 0; i < sums_.size(); ++i) {
      const double rounding = u_out * std::fabs(expected.at(static_cast<int64_t>(i)));
      bounds.element[i] += part_[i] + rounding;
      out_square += rounding * rounding;
    }
    const double low = LowRankNorm(independent), accumulated = SumNorm();
    const double out = NormFraction(expected.numel());
    bounds.norm = std::min(Norm(bounds.element), std::sqrt(accumulated * accumulated + low * low +
                                                           out * out * out_square));
    return bounds;
  }
  // Of h, d_up and d_down, which are f32.
  Bounds FinishSums(int64_t independent) const {
    Bounds bounds{sums_, 0};
    for (size_t i = 0; i < sums_.size(); ++i) bounds.element[i] += part_[i];
    bounds.norm = std::min(Norm(bounds.element), std::hypot(SumNorm(), LowRankNorm(independent)));
    return bounds;
  }

 private:
  // Bounds of accumulation are of sums, or partial sums, within 4 standard deviations. In the mean
  // square a sum reaches 1, and the largest of its partial sums at most 2 (Doob's inequality).
  double SumNorm() const { return NormFraction(static_cast<int64_t>(sums_.size())) * Norm(sums_); }
  // As NormFraction, but relative to a sum of squares, which few numbers may exceed.
  double LowRankNorm(int64_t independent) const {
    const double count = static_cast<double>(std::max<int64_t>(independent, 1));
    return (0.5 + 4 / std::sqrt(count)) * std::sqrt(low_square_);
  }

  Vector sums_, part_;
  double low_square_ = 0;
};

}  // namespace lora::test
