// The formulas of elementwise kinds in doubles.
#pragma once

#include <cmath>
#include <numbers>

#include "core/ops/tape.h"

namespace lora::reference {

using Number = double;
inline double Of(float x) { return x; }
inline double IfNegative(double x, double a, double b) { return x < 0 ? a : b; }
inline double IfPositive(double x, double a, double b) { return x > 0 ? a : b; }
inline double IfLess(double x, double y, double a, double b) { return x < y ? a : b; }
inline double IfEqual(double x, double y, double a, double b) { return x == y ? a : b; }
inline double AtLeast(float low, double x) { return x < low ? low : x; }
inline double AtMost(float high, double x) { return x > high ? high : x; }
inline double MulAdd(double a, double b, double c) { return a * b + c; }
inline double IfAbove(float high, double x, double a, double b) { return x > high ? a : b; }
inline double Root(double x) { return std::sqrt(x); }
inline double Exp(double x) { return std::exp(x); }
inline double Log(double x) { return std::log(x); }
inline double Power(double x, double y) { return std::pow(x, y); }

struct SigmoidParts {
  double x, s, c;
};
inline SigmoidParts Sigmoid(double x) { return {x, 1 / (1 + std::exp(-x)), 1 / (1 + std::exp(x))}; }

struct NormalParts {
  double cdf, density;
};
inline NormalParts Normal(double x) {
  return {0.5 * std::erfc(-x / std::numbers::sqrt2),
          std::exp(-0.5 * x * x) * std::numbers::inv_sqrtpi / std::numbers::sqrt2};
}

#define LORA_FORMULA inline
#include "core/maths/kinds.h"
#undef LORA_FORMULA

}  // namespace lora::reference
