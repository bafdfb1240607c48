// unary and unary_backward: the cases and bounds of every backend.
#pragma once

#include <cmath>
#include <numbers>
#include <vector>

#include "core/ops/ops.h"
#include "test/support/rounding.h"
#include "test/support/tensors.h"

namespace lora::test {

constexpr UnaryKind kKinds[] = {UnaryKind::kCopy, UnaryKind::kScale, UnaryKind::kSquare,
                                UnaryKind::kSqrt, UnaryKind::kRelu,  UnaryKind::kGelu,
                                UnaryKind::kSilu};
constexpr float kAlpha = -1.7f;

struct Types {
  DType x, y;
};
constexpr Types kTypes[] = {{DType::kF32, DType::kF32},  {DType::kBF16, DType::kBF16},
                            {DType::kF16, DType::kF16},  {DType::kF32, DType::kBF16},
                            {DType::kBF16, DType::kF32}, {DType::kF16, DType::kBF16},
                            {DType::kF32, DType::kF16}};

// Seeded numbers of the function's domain.
inline Tensor UnaryInput(UnaryKind kind, DType dtype, int64_t n, uint64_t seed) {
  const Tensor x = Normal(dtype, {n}, seed, 3);
  if (kind != UnaryKind::kSqrt) return x;
  std::vector<double> values = x.Values();
  for (double& value : values) value = std::fabs(value) + 0.01;
  return Of(dtype, {n}, values);
}

// Rounding errors of the formula, in units of kU times this.
inline double Steps(UnaryKind kind) {
  return kind == UnaryKind::kCopy                               ? 0
         : kind == UnaryKind::kGelu || kind == UnaryKind::kSilu ? 8
                                                                : 1;
}

inline std::vector<double> UnaryBounds(UnaryKind kind, const Tensor& expected) {
  std::vector<double> bounds;
  for (const double e : expected.Values())
    bounds.push_back(Steps(kind) * kU * std::fabs(e) + RoundingBound(expected.dtype(), e));
  return bounds;
}

// The terms of f'(x), without cancellation between them.
inline double GradientTerms(UnaryKind kind, double x) {
  const auto sigmoid = [](double z) { return 1 / (1 + std::exp(-z)); };
  switch (kind) {
    case UnaryKind::kGelu:
      return 0.5 * std::erfc(-x / std::numbers::sqrt2) +
             std::fabs(x) * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
    case UnaryKind::kSilu:
      return sigmoid(x) * (1 + std::fabs(x) * sigmoid(-x));
    case UnaryKind::kSquare:
      return 2 * std::fabs(x);
    case UnaryKind::kSqrt:
      return 0.5 / std::sqrt(x);
    default:
      return 2;
  }
}

inline std::vector<double> UnaryBackwardBounds(UnaryKind kind, const Tensor& x, const Tensor& g,
                                               const Tensor& expected) {
  std::vector<double> bounds;
  for (int64_t i = 0; i < x.numel(); ++i) {
    bounds.push_back(8 * kU * std::fabs(g.at(i)) * GradientTerms(kind, x.at(i)) +
                     RoundingBound(expected.dtype(), expected.at(i)));
  }
  return bounds;
}

// From −40 to 40: the tails of gelu and silu.
inline Tensor TailInputs() {
  std::vector<double> values;
  for (double x = -40; x <= 40; x += 0.0131) values.push_back(x);
  return Of(DType::kF32, {static_cast<int64_t>(values.size())}, values);
}

// All 65536 of a 2-byte type.
inline Tensor EveryPattern(DType dtype) {
  Tensor x(dtype, {65536});
  for (int64_t i = 0; i < 65536; ++i) x.view().as<uint16_t>()[i] = static_cast<uint16_t>(i);
  return x;
}

// f32 values at every kind of rounding boundary of the narrower types.
inline Tensor RoundingBoundaries() {
  std::vector<uint32_t> patterns;
  for (uint32_t high = 0; high < 65536; high += 7) {
    for (const uint32_t low : {0x0000u, 0x0001u, 0x0fffu, 0x1000u, 0x1001u, 0x3000u, 0x7fffu,
                               0x8000u, 0x8001u, 0xffffu}) {
      patterns.push_back(high << 16 | low);
    }
  }
  Tensor x(DType::kF32, {static_cast<int64_t>(patterns.size())});
  for (size_t i = 0; i < patterns.size(); ++i) x.view().as<uint32_t>()[i] = patterns[i];
  return x;
}

// How many values differ; any NaN equals any NaN, but −0 is not 0.
inline int64_t WrongValues(const Tensor& actual, const Tensor& expected) {
  int64_t wrong = 0;
  for (int64_t i = 0; i < expected.numel(); ++i) {
    const double a = actual.at(i), e = expected.at(i);
    const bool same = a == e && std::signbit(a) == std::signbit(e);
    if (!same && !(std::isnan(a) && std::isnan(e))) ++wrong;
  }
  return wrong;
}

}  // namespace lora::test
