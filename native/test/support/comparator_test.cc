// Tests that the comparator refuses what must not pass.
#include <cmath>
#include <limits>

#include "test/support/close.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr Tolerance kLoose{1e-3, 1e-3};

Tensor Sample() { return Normal(DType::kF32, {5, 7}, 3, 1, 2); }

// Returns what comparing says after element `at` of the actual tensor became `value`.
Comparison After(int64_t at, double value, const Tolerance& tolerance = kLoose) {
  Tensor actual = Sample();
  actual.Set(at, value);
  return Close(actual, Sample(), tolerance);
}

TEST_CASE("close accepts equal tensors with no tolerance at all") {
  CHECK(Close(Sample(), Sample(), Tolerance{}).ok);
  CHECK(Close(Tensor(DType::kF32, {0, 4}), Tensor(DType::kF32, {0, 4}), Tolerance{}).ok);
}

TEST_CASE("close rejects one flipped sign") {
  const Comparison result = After(9, -Sample().at(9));
  CHECK_FALSE(result.ok);
  CHECK(result.text.find("[1, 2] of [5, 7]") != std::string::npos);
}

TEST_CASE("close rejects one zeroed element") { CHECK_FALSE(After(34, 0).ok); }

TEST_CASE("close rejects NaN and infinities, wherever they stand") {
  CHECK_FALSE(After(0, kNaN).ok);
  CHECK_FALSE(After(34, kInfinity).ok);
  CHECK_FALSE(After(3, -kInfinity).ok);
  CHECK_FALSE(After(3, kNaN, {1e30, 1e30}).ok);
  const Tensor nan = Full(DType::kF32, {2}, kNaN), infinity = Full(DType::kF32, {2}, kInfinity);
  CHECK_FALSE(Close(nan, nan, kLoose).ok);
  CHECK_FALSE(Close(infinity, infinity, kLoose).ok);
  CHECK_FALSE(Close(Zeros(DType::kF32, {2}), nan, kLoose).ok);
}

TEST_CASE("close rejects bounds that are NaN or infinite") {
  const Tensor a = Zeros(DType::kF32, {1});
  CHECK_FALSE(Close(a, a, std::vector<double>{kNaN}).ok);
  CHECK_FALSE(Close(a, a, std::vector<double>{kInfinity}).ok);
}

TEST_CASE("close rejects another shape, an absent tensor and a wrong number of bounds") {
  const Tensor a = Zeros(DType::kF32, {2, 3});
  CHECK_FALSE(Close(a, Zeros(DType::kF32, {3, 2}), kLoose).ok);
  CHECK_FALSE(Close(a, Zeros(DType::kF32, {6}), kLoose).ok);
  CHECK_FALSE(Close(Tensor(), a, kLoose).ok);
  CHECK_FALSE(Close(a, a, std::vector<double>(5, 1.0)).ok);
}

TEST_CASE("close holds each element to its own bound") {
  const Tensor expected = Zeros(DType::kF64, {2});
  const std::vector<double> bounds = {1, 0.1};
  CHECK(Close(Of(DType::kF64, {2}, {1, 0.1}), expected, bounds).ok);
  CHECK_FALSE(Close(Of(DType::kF64, {2}, {0, 0.11}), expected, bounds).ok);
  CHECK_FALSE(Close(Of(DType::kF64, {2}, {1.01, 0}), expected, bounds).ok);
}

TEST_CASE("close names the worst element relative to its bound") {
  const Comparison result = Close(Of(DType::kF64, {3}, {3, 1, 2}), Zeros(DType::kF64, {3}),
                                  std::vector<double>{1, 0.1, 1});
  CHECK(result.text ==
        "3 of 3 elements are off; the worst, at [1] of [3], is 1 where 0 was expected: error 1, "
        "bound 0.1");
}

TEST_CASE("close rejects many elements that all sit at their bound") {
  const Tensor expected = Zeros(DType::kF64, {10000});
  const std::vector<double> bounds(10000, 1.0);
  CHECK(Close(Full(DType::kF64, {10000}, 0.5), expected, bounds).ok);
  const Comparison result = Close(Full(DType::kF64, {10000}, 0.9), expected, bounds);
  CHECK_FALSE(result.ok);
  CHECK(result.text.find("norm") != std::string::npos);
}

TEST_CASE("identical looks at bits") {
  const Tensor zero = Zeros(DType::kF32, {2});
  CHECK(Identical(zero, zero).ok);
  CHECK_FALSE(Identical(Full(DType::kF32, {2}, -0.0), zero).ok);
  CHECK_FALSE(Identical(Zeros(DType::kI32, {2}), zero).ok);
  CHECK_FALSE(Identical(Zeros(DType::kF32, {1, 2}), zero).ok);
  const Tensor nan = Full(DType::kF32, {2}, kNaN);
  CHECK(Identical(nan, nan).ok);
  const Comparison result = Identical(Of(DType::kF32, {2}, {0, 1}), zero);
  CHECK(result.text == "element [1] of [2] is 1 where 0 was expected, bit for bit");
}

TEST_CASE("fresh tensors hold NaN and notice writes behind their end") {
  Tensor tensor(DType::kBF16, {3}, 1);
  CHECK(std::isnan(tensor.at(2)));
  CHECK(tensor.intact());
#ifndef __SANITIZE_ADDRESS__
  tensor.view().as<uint16_t>()[3] = 0;
  CHECK_FALSE(tensor.intact());
#endif
}

}  // namespace
}  // namespace lora::test
