// How far f32 arithmetic may be off in the functions of gates, and in their derivatives.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/maths/kinds.h"

namespace lora::test {

inline double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// v of gelu_tanh(x) = x·σ(v), whose relative error σ multiplies by |v|·σ(−v).
inline double GeluTanhArgument(double x) { return 1.5957691216 * x * (1 + 0.044715 * x * x); }
inline double ArgumentError(double x) {
  const double v = GeluTanhArgument(x);
  return std::fabs(v) * Sigmoid(-v);
}

// v of the clamped kind, x·σ(v).
inline double ClampedArgument(double x) { return 1.702 * std::min(x, 7.0); }

// Returns the rounding errors of f(x), in units of kU.
inline double StepsOf(GatedKind kind, double x) {
  if (kind == GatedKind::kClamped) {
    const double v = ClampedArgument(x);
    return 10 + 4 * std::fabs(v) * Sigmoid(-v);
  }
  return kind == GatedKind::kGeluTanh ? 8 + 4 * ArgumentError(x) : 8;
}

// Returns the terms of f'(x), without cancellation between them.
inline double GradientTermsOf(GatedKind kind, double x) {
  if (kind == GatedKind::kLogistic) return Sigmoid(x) * Sigmoid(-x);
  if (kind == GatedKind::kSilu) return Sigmoid(x) * (1 + std::fabs(x) * Sigmoid(-x));
  if (kind == GatedKind::kClamped) {
    if (x > 7) return 0;
    const double z = ClampedArgument(x), along = std::fabs(z) * Sigmoid(-z);
    return Sigmoid(z) * (1 + along) * (1 + along);
  }
  const double v = GeluTanhArgument(x), slope = 1.5957691216 * (1 + 3 * 0.044715 * x * x);
  const double along = std::fabs(x) * Sigmoid(-v) * slope;
  return Sigmoid(v) * ((1 + along) * (1 + ArgumentError(x)) + along * std::fabs(v));
}

// What f is multiplied by.
inline double FactorOf(GatedKind kind, double up) {
  return kind == GatedKind::kClamped ? std::clamp(up, -7.0, 7.0) + 1 : up;
}

// What f'(x)/x is off by where σ is below the normal range of f32, and may be flushed to 0.
inline double FlushedOf(GatedKind kind) { return kind == GatedKind::kGeluTanh ? 1e-34 : 1.2e-38; }

}  // namespace lora::test
