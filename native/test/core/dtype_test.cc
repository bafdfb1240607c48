// Tests conversions between element types, exhaustively where a type has 65536 values.
#include "core/maths/dtype.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/ops/element.h"

namespace lora {
namespace {

// A 16-bit float type, with its meaning written down a second time.
struct Half {
  const char* name;
  int mantissa_bits;
  int bias;
  float (*widen)(uint16_t);
  uint16_t (*from_f32)(float);
  uint16_t (*from_f64)(double);

  uint16_t infinity() const {
    return static_cast<uint16_t>(0x7fff >> mantissa_bits << mantissa_bits);
  }
  bool is_nan(uint32_t bits) const { return (bits & 0x7fff) > infinity(); }
  double Meaning(uint32_t bits) const {
    const int exponent = static_cast<int>((bits & 0x7fff) >> mantissa_bits);
    const int mantissa = static_cast<int>(bits & ((1u << mantissa_bits) - 1));
    const double magnitude = exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                                           : std::ldexp((1 << mantissa_bits) + mantissa,
                                                        exponent - bias - mantissa_bits);
    return bits & 0x8000 ? -magnitude : magnitude;
  }
};

constexpr Half kHalves[] = {
    {"f16", 10, 15, F32FromF16, F16FromF32, F16FromF64},
    {"bf16", 7, 127, F32FromBF16, BF16FromF32, BF16FromF64},
};

// Failures are counted, because 65536 assertions of each kind are slow.
TEST_CASE("every 16-bit float means what its bits say, and survives the way to f32 and back") {
  for (const Half& half : kHalves) {
    CAPTURE(half.name);
    int wrong_value = 0, wrong_f32 = 0, wrong_f64 = 0;
    for (uint32_t i = 0; i < 65536; ++i) {
      const uint16_t bits = static_cast<uint16_t>(i);
      const float value = half.widen(bits);
      if (half.is_nan(bits)) {
        if (!std::isnan(value)) ++wrong_value;
        if (!half.is_nan(half.from_f32(value))) ++wrong_f32;
        if (!half.is_nan(half.from_f64(value))) ++wrong_f64;
        continue;
      }
      const double meaning = (bits & 0x7fff) == half.infinity()
                                 ? std::copysign(HUGE_VAL, bits & 0x8000 ? -1.0 : 1.0)
                                 : half.Meaning(bits);
      if (value != meaning || std::signbit(value) != std::signbit(meaning)) ++wrong_value;
      if (half.from_f32(value) != bits) ++wrong_f32;
      if (half.from_f64(value) != bits) ++wrong_f64;
    }
    CHECK(wrong_value == 0);
    CHECK(wrong_f32 == 0);
    CHECK(wrong_f64 == 0);
  }
}

TEST_CASE("between any two neighbors, the nearer one is taken and a tie goes to the even one") {
  for (const Half& half : kHalves) {
    CAPTURE(half.name);
    int wrong_f32 = 0, wrong_f64 = 0;
    for (uint32_t sign : {0u, 0x8000u}) {
      for (uint32_t i = 0; i < half.infinity(); ++i) {
        // The last pair is the largest finite value and what would follow it, which is infinity.
        const double low = half.Meaning(i), high = half.Meaning(i + 1);
        const double middle = low + (high - low) / 2;  // exact, in f32 as well
        const uint32_t even = i % 2 == 0 ? i : i + 1;
        const double s = sign ? -1 : 1;
        const auto f64 = [&](double value) { return half.from_f64(s * value); };
        if (f64(middle) != (sign | even)) ++wrong_f64;
        if (f64(std::nextafter(middle, 0.0)) != (sign | i)) ++wrong_f64;
        if (f64(std::nextafter(middle, HUGE_VAL)) != (sign | (i + 1))) ++wrong_f64;
        const float middle_f32 = static_cast<float>(middle);
        const auto f32 = [&](float value) { return half.from_f32(sign ? -value : value); };
        if (f32(middle_f32) != (sign | even)) ++wrong_f32;
        if (f32(std::nextafterf(middle_f32, 0.0f)) != (sign | i)) ++wrong_f32;
        if (f32(std::nextafterf(middle_f32, HUGE_VALF)) != (sign | (i + 1))) ++wrong_f32;
      }
    }
    CHECK(wrong_f32 == 0);
    CHECK(wrong_f64 == 0);
  }
}

TEST_CASE("a double is rounded once") {
  // These lie a little above a tie; rounded to f32 first, they would be the tie and go to the even
  // 1.
  CHECK(F16FromF64(1 + 0x1p-11 + 0x1p-40) == 0x3c01);
  CHECK(F16FromF32(static_cast<float>(1 + 0x1p-11 + 0x1p-40)) == 0x3c00);
  CHECK(BF16FromF64(1 + 0x1p-8 + 0x1p-40) == 0x3f81);
  CHECK(BF16FromF32(static_cast<float>(1 + 0x1p-8 + 0x1p-40)) == 0x3f80);
}

TEST_CASE("NaN stays NaN, whatever its payload, and what is too large becomes infinity") {
  for (const Half& half : kHalves) {
    CAPTURE(half.name);
    for (const uint32_t bits : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu}) {
      const uint16_t narrowed = half.from_f32(std::bit_cast<float>(bits));
      CHECK(half.is_nan(narrowed));
      CHECK((narrowed & 0x8000u) == (bits >> 16 & 0x8000u));
    }
    CHECK(half.is_nan(half.from_f64(std::numeric_limits<double>::quiet_NaN())));
    CHECK(half.from_f64(1e300) == half.infinity());
    CHECK(half.from_f64(-1e300) == (0x8000 | half.infinity()));
    CHECK(half.from_f32(HUGE_VALF) == half.infinity());
    CHECK(half.from_f64(5e-324) == 0);
    CHECK(half.from_f64(-5e-324) == 0x8000);
    CHECK(half.from_f32(-0.0f) == 0x8000);
  }
  CHECK(F16FromF32(65519.996f) == 0x7bff);
  CHECK(F16FromF32(65520.0f) == 0x7c00);
}

TEST_CASE("unit roundoff is half the distance from 1 to its successor") {
  CHECK(UnitRoundoff(DType::kF16) == (F32FromF16(0x3c01) - 1) / 2);
  CHECK(UnitRoundoff(DType::kBF16) == (F32FromBF16(0x3f81) - 1) / 2);
  CHECK(UnitRoundoff(DType::kF32) == std::numeric_limits<float>::epsilon() / 2);
  CHECK(UnitRoundoff(DType::kF64) == std::numeric_limits<double>::epsilon() / 2);
}

TEST_CASE("integers are stored towards zero, within their range") {
  CHECK(Int32From(-1.9) == -1);
  CHECK(Int32From(1.9) == 1);
  CHECK(Int32From(3e9) == 2147483647);
  CHECK(Int32From(-HUGE_VAL) == -2147483647 - 1);
  CHECK(Int32From(std::nan("")) == 0);
}

}  // namespace
}  // namespace lora
