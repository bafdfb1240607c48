// Defines the element types of tensors, and the conversions between them.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace lora {

// kF64 exists for the reference backend's gradient checks, kI8 for the values of quantized weights;
// neither is part of the public API.
enum class DType : uint8_t { kF32, kBF16, kF16, kI32, kF64, kI8 };

constexpr size_t SizeOf(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kF64:
      return 8;
    case DType::kI8:
      return 1;
    default:
      return 4;
  }
}

constexpr const char* NameOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kI32:
      return "i32";
    case DType::kF64:
      return "f64";
    case DType::kI8:
      return "i8";
  }
  return "unknown";
}

// Returns the unit roundoff u of a floating-point type: |round(x) - x| <= u·|x|.
constexpr double UnitRoundoff(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return 1.0 / 256;
    case DType::kF16:
      return 1.0 / 2048;
    case DType::kF64:
      return 1.0 / 9007199254740992.0;
    default:
      return 1.0 / 16777216;
  }
}

inline float F32FromBF16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// These round to nearest even; a NaN stays a (quiet) NaN.
inline uint16_t BF16FromF32(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float F32FromF16(uint16_t bits);
uint16_t F16FromF32(float value);

// These return the nearest bf16 or f16 of a double, rounded once (not first to f32).
uint16_t BF16FromF64(double value);
uint16_t F16FromF64(double value);

}  // namespace lora
