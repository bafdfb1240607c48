#include "test/support/close.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <sstream>

#include "core/ops/element.h"

namespace lora::test {
namespace {

// Returns "[1, 0, 7]" for element i.
std::string Place(const Shape& shape, int64_t i) {
  std::string text;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    text = std::to_string(i % shape[d]) + (text.empty() ? "" : ", ") + text;
    i /= shape[d];
  }
  return '[' + text + ']';
}

Comparison Failed(const std::ostringstream& text) { return {false, text.str()}; }

}  // namespace

double NormFraction(int64_t elements) {
  if (elements <= 64) return 1;
  return std::min(1.0, 0.5 + 4 / std::sqrt(static_cast<double>(elements)));
}

Comparison Close(const TensorView& actual, const TensorView& expected, const Bounds& bounds) {
  std::ostringstream text;
  text.precision(9);
  if (!actual.defined || !expected.defined || !(actual.shape == expected.shape)) {
    text << "expected shape " << expected.shape << (expected.defined ? "" : " (absent)")
         << " but received " << actual.shape << (actual.defined ? "" : " (absent)");
    return Failed(text);
  }
  const int64_t n = expected.numel();
  if (static_cast<int64_t>(bounds.element.size()) != n) {
    text << "expected " << n << " bounds but received " << bounds.element.size();
    return Failed(text);
  }
  int64_t bad = 0, worst = -1;
  double worst_ratio = 0, error_square = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double a = Load(actual, i), e = Load(expected, i);
    const double bound = bounds.element[static_cast<size_t>(i)];
    const double error = std::fabs(a - e);  // NaN for Inf − Inf: an Inf never passes
    error_square += error * error;
    const bool within = std::isfinite(a) && std::isfinite(e) && std::isfinite(bound);
    if (within && error <= bound) continue;
    ++bad;
    double ratio = error / bound;
    if (!within || std::isnan(ratio)) ratio = HUGE_VAL;
    if (worst < 0 || ratio > worst_ratio) {
      worst = i;
      worst_ratio = ratio;
    }
  }
  if (bad > 0) {
    const double a = Load(actual, worst), e = Load(expected, worst);
    text << bad << " of " << n << " elements are off; the worst, at "
         << Place(expected.shape, worst) << " of " << expected.shape << ", is " << a << " where "
         << e << " was expected: error " << std::fabs(a - e) << ", bound "
         << bounds.element[static_cast<size_t>(worst)];
    return Failed(text);
  }
  const double error_norm = std::sqrt(error_square);
  if (!(error_norm <= bounds.norm)) {
    text << "every element is within its bound, but the norm of the error over " << n
         << " elements is " << error_norm << ", bound " << bounds.norm;
    return Failed(text);
  }
  return {};
}

Comparison Close(const TensorView& actual, const TensorView& expected,
                 const std::vector<double>& bounds) {
  double square = 0;
  for (const double bound : bounds) square += bound * bound;
  const double norm = NormFraction(static_cast<int64_t>(bounds.size())) * std::sqrt(square);
  return Close(actual, expected, Bounds{bounds, norm});
}

Comparison Close(const TensorView& actual, const TensorView& expected, const Tolerance& tolerance) {
  std::vector<double> bounds;
  for (int64_t i = 0; i < expected.numel(); ++i) {
    bounds.push_back(tolerance.absolute + tolerance.relative * std::fabs(Load(expected, i)));
  }
  return Close(actual, expected, bounds);
}

Comparison Identical(const TensorView& actual, const TensorView& expected) {
  std::ostringstream text;
  text.precision(17);
  if (actual.defined != expected.defined || !(actual.shape == expected.shape) ||
      actual.dtype != expected.dtype) {
    text << "expected " << NameOf(expected.dtype) << ' ' << expected.shape << " but received "
         << NameOf(actual.dtype) << ' ' << actual.shape;
    return Failed(text);
  }
  const size_t size = SizeOf(expected.dtype);
  for (int64_t i = 0; i < expected.numel(); ++i) {
    const size_t at = static_cast<size_t>(i) * size;
    if (std::memcmp(actual.as<char>() + at, expected.as<char>() + at, size) == 0) continue;
    text << "element " << Place(expected.shape, i) << " of " << expected.shape << " is "
         << Load(actual, i) << " where " << Load(expected, i) << " was expected, bit for bit";
    return Failed(text);
  }
  return {};
}

}  // namespace lora::test
