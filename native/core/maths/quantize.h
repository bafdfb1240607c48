// Quantizes groups of values that share a scale, for the formats with scales (weight_format.h). u
// is a value over the largest magnitude of its group, as bitsandbytes computes it:
// x·(1/magnitude).
//
// Functions that kernels call too are constexpr, so that nvcc compiles them for the device.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/maths/weight_format.h"

namespace lora {

// The codes of a table in the order of their values, and the middles between neighbors. The code
// of u is the one behind as many as u is above middles: the nearest, and of two the lower value.
struct CodeOrder {
  float middles[kCodes];  // the last is no middle, and above every u
  uint8_t codes[kCodes];
};
constexpr CodeOrder OrderOf(const CodeTable& table) {
  CodeOrder order{};
  for (uint32_t code = 0; code < kCodes; ++code) {
    size_t place = 0;  // equal values keep the order of their codes
    for (uint32_t other = 0; other < kCodes; ++other) {
      const float value = table.values[code], than = table.values[other];
      place += than < value || (than == value && other < code);
    }
    order.codes[place] = static_cast<uint8_t>(code);
  }
  for (size_t i = 0; i + 1 < kCodes; ++i)
    order.middles[i] = (table.values[order.codes[i]] + table.values[order.codes[i + 1]]) / 2;
  order.middles[kCodes - 1] = 0x1.fffffep127f;
  return order;
}

// 0 stays 0 where the magnitude is 0, or so small that its inverse is infinite.
constexpr float OverMagnitude(float x, float inverse) { return x == 0 ? 0.0f : x * inverse; }

constexpr uint32_t CodeOf(const CodeOrder& order, float u) {
  uint32_t rank = 0;
  for (size_t i = 0; i + 1 < kCodes; ++i) rank += u > order.middles[i];
  return order.codes[rank];
}

// The largest magnitude of int8, and the integer of u: the nearest, and of two the even one.
constexpr float kInt8Range = 127;

// Returns a group's magnitude from the largest bits of its |x|. It is NaN where a value is not
// finite, and the group's codes are 0 then: their order is that of the magnitudes, and bits of
// infinity and NaN are above all others.
inline float MagnitudeOfBits(uint32_t bits) {
  return std::bit_cast<float>(bits < 0x7f800000u ? bits : 0x7fc00000u);
}

}  // namespace lora
