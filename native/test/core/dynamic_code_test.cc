#include "core/maths/dynamic_code.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace lora::test {
namespace {

const std::array<float, 256>& ValuesOf(bool has_sign) {
  return has_sign ? kSignedValues : kUnsignedValues;
}

// Lists the values as the paper describes them: for each power of ten from 10⁻⁶ to 1, the middles
// of equal parts of [0.1, 1], twice as many for each power. With a sign, there are both signs of
// them. 0 and 1 are values too.
std::vector<double> Published(bool has_sign) {
  std::vector<double> values = {0, 1};
  for (int i = 0; i < 7; ++i) {
    const int parts = has_sign ? 1 << i : 2 << i;
    for (int j = 0; j < parts; ++j) {
      const double low = 0.1 + 0.9 * j / parts, high = 0.1 + 0.9 * (j + 1) / parts;
      const double value = std::pow(10, i - 6) * (low + high) / 2;
      values.push_back(value);
      if (has_sign) values.push_back(-value);
    }
  }
  std::sort(values.begin(), values.end());
  return values;
}

TEST_CASE("the 256 values are those of the dynamic tree") {
  for (const bool has_sign : {true, false}) {
    CAPTURE(has_sign);
    std::vector<double> values(ValuesOf(has_sign).begin(), ValuesOf(has_sign).end());
    CHECK(values[0] == 0);
    std::sort(values.begin(), values.end());
    const std::vector<double> expected = Published(has_sign);
    REQUIRE(expected.size() == 256);
    for (size_t i = 0; i < 256; ++i)
      CHECK(std::fabs(values[i] - expected[i]) <= 2e-7 * std::fabs(expected[i]));
  }
}

TEST_CASE("a value has its own code, and a number that of the nearest value") {
  for (const bool has_sign : {true, false}) {
    CAPTURE(has_sign);
    const DynamicTree& tree = has_sign ? kSignedTree : kUnsignedTree;
    const auto& values = ValuesOf(has_sign);
    std::vector<float> sorted(values.begin(), values.end());
    std::sort(sorted.begin(), sorted.end());
    for (uint32_t code = 0; code < 256; ++code) CHECK(DynamicCode(tree, values[code]) == code);
    for (size_t i = 0; i + 1 < sorted.size(); ++i) {
      CAPTURE(sorted[i]);
      const float gap = sorted[i + 1] - sorted[i];
      for (const float share : {0.01f, 0.49f, 0.51f, 0.99f}) {
        const float x = sorted[i] + share * gap;
        const bool never_zero = !has_sign && sorted[i] == 0;
        CHECK(values[DynamicCode(tree, x)] == sorted[share < 0.5f && !never_zero ? i : i + 1]);
      }
    }
  }
  constexpr float kLeast = std::numeric_limits<float>::denorm_min();
  CHECK(DynamicCode(kSignedTree, kLeast) == 0);
  CHECK(kUnsignedValues[DynamicCode(kUnsignedTree, kLeast)] == doctest::Approx(3.25e-7));
  CHECK(kSignedValues[DynamicCode(kSignedTree, -1)] == doctest::Approx(-0.99296875));
}

}  // namespace
}  // namespace lora::test
