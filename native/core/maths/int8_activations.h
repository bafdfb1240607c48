// Activations as whole numbers: x of a linear layer, rounded to 8 bits, times the codes of W, which
// are whole numbers too. Neighboring values of x, kActivationGroup of them, share a scale:
//   scale = max|x| / 127,  code = x·(127 / max|x|) rounded to the nearest, ties to even
// A product is Σ over groups of scale·(the sum of code·code, exact) times the scale of W, so that
// its bits follow from the order of the groups alone.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "core/maths/weight_format.h"

namespace lora {

constexpr size_t kActivationGroup = 32;
constexpr float kLargestActivation = 127;
// A group whose values are all smaller counts as zeros: 127 over them might be infinite.
constexpr float kLeastActivation = 0x1p-100f;

// How a linear layer takes x.
enum class Activations : uint8_t { kExact, kInt8 };
inline constexpr const char* kActivationNames[] = {"exact", "int8"};

// Whether the values of a format are scale·code + offset with whole codes, and products multiply
// those. The codes of NF4 and FP4 stand for values that are not whole; other types of blocks are
// read by tables, or too rare.
constexpr bool HasWholeCodes(WeightFormat format) {
  switch (format) {
    case WeightFormat::kI8Rows:
    case WeightFormat::kQ4_0:
    case WeightFormat::kQ4_1:
    case WeightFormat::kQ5_0:
    case WeightFormat::kQ5_1:
    case WeightFormat::kQ8_0:
    case WeightFormat::kQ4_K:
    case WeightFormat::kQ5_K:
    case WeightFormat::kQ6_K:
      return true;
    default:
      return false;
  }
}

// Writes the codes of up to kActivationGroup values, and returns their scale: NaN where a value is
// not finite, with codes of zero.
inline float RoundActivations(const float* x, size_t count, int8_t* codes) {
  uint32_t magnitude = 0;
  for (size_t i = 0; i < count; ++i) {
    magnitude = std::max(magnitude, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  }
  const float most = std::bit_cast<float>(magnitude);
  const bool finite = magnitude < 0x7f800000u;
  if (!finite || most < kLeastActivation) {
    std::fill(codes, codes + count, int8_t{0});
    return finite ? 0 : std::numeric_limits<float>::quiet_NaN();
  }
  const float inverse = kLargestActivation / most;
  for (size_t i = 0; i < count; ++i) codes[i] = static_cast<int8_t>(std::rint(x[i] * inverse));
  return most / kLargestActivation;
}

}  // namespace lora
