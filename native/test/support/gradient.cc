#include "test/support/gradient.h"

#include <algorithm>
#include <cmath>

#include "test/support/close.h"

namespace lora::test {

double Project(const Tensor& values, const Tensor& weights) {
  double sum = 0;
  for (int64_t i = 0; i < values.numel(); ++i) sum += values.at(i) * weights.at(i);
  return sum;
}

Tensor CentralDifferences(Tensor& x, const LossFunction& loss) {
  // The error is h²·f'''/6 of the method and 2⁻⁵³·|loss|/h of rounding; both are near 1e-10.
  constexpr double kStep = 1e-5;
  Tensor gradient(DType::kF64, x.shape());
  for (int64_t i = 0; i < x.numel(); ++i) {
    const double value = x.at(i), above = value + kStep, below = value - kStep;
    x.Set(i, above);
    const double loss_above = loss();
    x.Set(i, below);
    const double loss_below = loss();
    x.Set(i, value);
    gradient.Set(i, (loss_above - loss_below) / (above - below));
  }
  return gradient;
}

void CheckGradient(const char* name, Tensor& x, const Tensor& gradient, const LossFunction& loss) {
  INFO(name);
  REQUIRE(x.dtype() == DType::kF64);
  const Tensor expected = CentralDifferences(x, loss);
  double largest = 0;
  for (const double value : expected.Values()) largest = std::max(largest, std::fabs(value));
  // A gradient that is 0 everywhere would say nothing; 1e-9 is what rounding leaves of a true 0.
  CHECK_CLOSE(gradient, expected, (Tolerance{1e-7 * largest + 1e-9, 0}));
}

}  // namespace lora::test
