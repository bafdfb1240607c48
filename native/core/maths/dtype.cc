#include "core/maths/dtype.h"

#include <algorithm>
#include <cmath>

namespace lora {
namespace {

// Returns the nearest value with `mantissa_bits` explicit mantissa bits, ties to even. It works on
// the exact double, so that there is one rounding.
uint16_t Encode(double value, int mantissa_bits, int exponent_bits) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const uint16_t infinity = static_cast<uint16_t>(((1 << exponent_bits) - 1) << mantissa_bits);
  if (std::isnan(value)) return sign | infinity | static_cast<uint16_t>(1 << (mantissa_bits - 1));
  const double magnitude = std::fabs(value);
  if (std::isinf(magnitude)) return sign | infinity;
  if (magnitude == 0) return sign;
  int exponent;
  std::frexp(magnitude, &exponent);  // magnitude = f·2^exponent, f in [1/2, 1)
  // The exponent of the last kept bit; subnormals share the smallest one.
  const int last = std::max(exponent - 1, 1 - bias) - mantissa_bits;
  // nearbyint rounds to even in the default rounding mode; the scaled value is exact.
  const double scaled = std::nearbyint(std::ldexp(magnitude, -last));
  const uint32_t units = static_cast<uint32_t>(scaled);  // < 2^(mantissa_bits + 1) + 1
  const uint32_t field = static_cast<uint32_t>(last + mantissa_bits + bias);
  // A normal number's leading one carries into the exponent field by plain addition.
  const uint32_t bits =
      units < (1u << mantissa_bits) ? units : ((field - 1) << mantissa_bits) + units;
  return sign | static_cast<uint16_t>(bits >= infinity ? infinity : bits);
}

}  // namespace

float F32FromF16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  return sign ? -magnitude : magnitude;
}

uint16_t F16FromF32(float value) { return Encode(value, 10, 5); }
uint16_t BF16FromF64(double value) { return Encode(value, 7, 8); }
uint16_t F16FromF64(double value) { return Encode(value, 10, 5); }

}  // namespace lora
