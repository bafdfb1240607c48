#include "core/maths/stochastic_rounding.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/maths/dtype.h"

namespace lora::test {
namespace {

float Rounded(float value, uint32_t random) {
  return F32FromBF16(RoundStochastically(std::bit_cast<uint32_t>(value), random));
}

TEST_CASE("stochastic rounding: the mean over all random bits is the number itself") {
  for (const float value : {1.0f, 1.001f, -1.001f, 3.14159f, 1.99999f, -1e-3f, 1e30f, 1e-40f}) {
    CAPTURE(value);
    double sum = 0, least = INFINITY, most = -INFINITY;
    for (uint32_t random = 0; random < 65536; ++random) {
      const double rounded = Rounded(value, random);
      sum += rounded;
      least = std::min(least, rounded);
      most = std::max(most, rounded);
    }
    CHECK(sum / 65536 == static_cast<double>(value));  // every term is a multiple of its ulp
    CHECK(most - least <= std::fabs(value) / 128 + 1e-40);
    CHECK((least <= value && value <= most));
  }
}

TEST_CASE("stochastic rounding: a bf16, an infinity and a NaN stay what they are") {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const uint32_t random : {0u, 1u, 65535u}) {
    for (const float value : {0.0f, 1.0f, -0.5f, 3.3895314e38f, infinity, -infinity})
      CHECK(Rounded(value, random) == value);
    CHECK(std::signbit(Rounded(-0.0f, random)));
    CHECK(std::isnan(Rounded(std::numeric_limits<float>::quiet_NaN(), random)));
    CHECK(std::isnan(F32FromBF16(RoundStochastically(0x7f800001u, random))));
    CHECK(std::isnan(F32FromBF16(RoundStochastically(0xffffffffu, random))));
  }
}

TEST_CASE("stochastic rounding: an element reads its half of the words of its eighth") {
  const PhiloxWords words = {0x00021111, 0x00043333, 0x00065555, 0x00087777};
  const uint32_t bits[8] = {0x1111, 2, 0x3333, 4, 0x5555, 6, 0x7777, 8};
  for (int i = 0; i < 8; ++i) CHECK(RoundingBits(words, i) == bits[i]);
  CHECK(RoundingWords(7, 2, 3, 5) == Philox4x32(7, {5, 2, 3, 0x53524e44}));
}

}  // namespace
}  // namespace lora::test
