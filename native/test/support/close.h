// Compares tensors. Every comparison is written !(error <= bound), so that a NaN anywhere fails it.
#pragma once

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "core/ops/tensor_view.h"

namespace lora::test {

struct Comparison {
  bool ok = true;
  std::string text;  // where not ok: the worst element, its place, values and bound
};

// Says how far element i may be off: an absolute part and one relative to the expected value.
struct Tolerance {
  double absolute = 0;
  double relative = 0;
};

// Says how far each element may be off, and ‖actual − expected‖₂ of all together.
struct Bounds {
  std::vector<double> element;
  double norm = 0;
};

// These require |actual − expected| <= bound for every element and for the norm, finite numbers and
// equal shapes. Dtypes may differ. The norm's bound is NormFraction(n)·‖bounds‖₂ unless it is
// given.
Comparison Close(const TensorView& actual, const TensorView& expected, const Bounds& bounds);
Comparison Close(const TensorView& actual, const TensorView& expected,
                 const std::vector<double>& bounds);
Comparison Close(const TensorView& actual, const TensorView& expected, const Tolerance& tolerance);

// The rounding errors of many elements do not all reach their bounds at once (a rounding to nearest
// reaches 0.4 of it in the mean square): 1 up to 64 elements, towards 1/2 for many.
double NormFraction(int64_t elements);

// Requires the same shape, dtype and bits (NaN equals the same NaN).
Comparison Identical(const TensorView& actual, const TensorView& expected);

}  // namespace lora::test

// CHECK_CLOSE(actual, expected, bounds or Tolerance): Tensors or TensorViews.
#define CHECK_CLOSE(actual, expected, tolerance)                                             \
  do {                                                                                       \
    const ::lora::test::Comparison lora_comparison_ =                                        \
        ::lora::test::Close((actual), (expected), (tolerance));                              \
    CHECK_MESSAGE(lora_comparison_.ok, (std::string(#actual ": ") + lora_comparison_.text)); \
  } while (0)

#define CHECK_IDENTICAL(actual, expected)                                                    \
  do {                                                                                       \
    const ::lora::test::Comparison lora_comparison_ =                                        \
        ::lora::test::Identical((actual), (expected));                                       \
    CHECK_MESSAGE(lora_comparison_.ok, (std::string(#actual ": ") + lora_comparison_.text)); \
  } while (0)
