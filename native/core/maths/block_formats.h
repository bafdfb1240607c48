// The block formats of ggml, as GGUF files hold them: what a value of a block is. Every backend
// reads blocks by these functions, device code too, so a further format is one BlockDecoder here.
//
// A row of W is a sequence of blocks of 32 or 256 values. In all of these formats 16 neighboring
// values, a group, are
//   W = scale·code + offset
// with integer codes and two f32 operations, which gives the bits of ggml's own dequantization. An
// offset of −0 changes no value, not even −0.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/maths/blocks.h"
#include "core/maths/codebooks.h"
#include "core/maths/weight_format.h"

namespace lora {

struct GroupScale {
  float scale;
  float offset = -0.0f;
};

// Kernels read blocks through these, and the emulator sees no read in a function of its own.
#define LORA_BLOCK [[gnu::always_inline]] static constexpr

// What the formats are made of.
struct BlockBits {
  LORA_BLOCK uint32_t Word16(const uint8_t* at) { return at[0] | uint32_t{at[1]} << 8; }
  // The bits of exponent and mantissa in the place of those of f32 are the value times 2⁻¹¹².
  LORA_BLOCK float Half(const uint8_t* at) {
    const uint32_t half = Word16(at), sign = (half & 0x8000u) << 16;
    const uint32_t magnitude = (half & 0x7fffu) << 13;
    const uint32_t value = magnitude < 0x0f800000u
                               ? std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f)
                               : magnitude | 0x7f800000u;
    return std::bit_cast<float>(value | sign);
  }
  LORA_BLOCK int Bit(const uint8_t* bits, int n) { return bits[n / 8] >> (n % 8) & 1; }
  LORA_BLOCK int Nibble(const uint8_t* bytes, int n) { return bytes[n / 2] >> (n % 2 * 4) & 15; }
  LORA_BLOCK int Signed(int code, const uint8_t* signs, int n) {
    return Bit(signs, n) ? -code : code;
  }

  // Blocks of 32: the first half in the low bits of 16 bytes.
  LORA_BLOCK int Half32(const uint8_t* bytes, int group, int i) {
    return bytes[i] >> (group * 4) & 15;
  }
  // Blocks of 256: the codes of 64 values in 32 bytes, those of the first 32 in the low bits; and
  // of 128 values with 2 bits for each.
  LORA_BLOCK int Half256(const uint8_t* bytes, int group, int i) {
    return bytes[group / 4 * 32 + group % 2 * 16 + i] >> (group / 2 % 2 * 4) & 15;
  }
  LORA_BLOCK int Quarter256(const uint8_t* bytes, int group, int i) {
    return bytes[group / 8 * 32 + group % 2 * 16 + i] >> (group % 8 / 2 * 2) & 3;
  }
  // 32 bytes with a bit for each of the 8 sequences of 32 values.
  LORA_BLOCK int Bit256(const uint8_t* bytes, int group, int i) {
    return bytes[group % 2 * 16 + i] >> (group / 2) & 1;
  }

  // The values of IQ4 codes.
  LORA_BLOCK int Iq4(int code) {
    // −127 −104 −83 −65 −49 −35 −22 −10 1 13 25 38 53 69 89 113, as bytes from the lowest on.
    const uint64_t low = 0xf6eaddcfbfad9881u, high = 0x7159453526190d01u;
    return static_cast<int8_t>((code < 8 ? low : high) >> (code % 8 * 8) & 0xff);
  }
};

template <WeightFormat kFormat>
struct BlockDecoder;

template <>
struct BlockDecoder<WeightFormat::kQ4_0> : BlockBits {
  LORA_BLOCK GroupScale ScaleOf(const uint8_t* block, int) { return {Half(block)}; }
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i) {
    return Half32(block + 2, group, i) - 8;
  }
};
template <>
struct BlockDecoder<WeightFormat::kQ4_1> : BlockBits {
  LORA_BLOCK GroupScale ScaleOf(const uint8_t* block, int) {
    return {Half(block), Half(block + 2)};
  }
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i) {
    return Half32(block + 4, group, i);
  }
};
template <>
struct BlockDecoder<WeightFormat::kQ5_0> : BlockBits {
  LORA_BLOCK GroupScale ScaleOf(const uint8_t* block, int) { return {Half(block)}; }
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i) {
    return Half32(block + 6, group, i) + 16 * Bit(block + 2, group * 16 + i) - 16;
  }
};
template <>
struct BlockDecoder<WeightFormat::kQ5_1> : BlockBits {
  LORA_BLOCK GroupScale ScaleOf(const uint8_t* block, int) {
    return {Half(block), Half(block + 2)};
  }
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i) {
    return Half32(block + 8, group, i) + 16 * Bit(block + 4, group * 16 + i);
  }
};
template <>
struct BlockDecoder<WeightFormat::kQ8_0> : BlockBits {
  LORA_BLOCK GroupScale ScaleOf(const uint8_t* block, int) { return {Half(block)}; }
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i) {
    return static_cast<int8_t>(block[2 + group * 16 + i]);
  }
};

template <>
struct BlockDecoder<WeightFormat::kQ2_K> : BlockBits {
  LORA_BLOCK GroupScale ScaleOf(const uint8_t* block, int group) {
    return {Half(block + 80) * static_cast<float>(block[group] & 15),
            -(Half(block + 82) * static_cast<float>(block[group] >> 4))};
  }
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i) {
    return Quarter256(block + 16, group, i);
  }
};
template <>
struct BlockDecoder<WeightFormat::kQ3_K> : BlockBits {
  LORA_BLOCK GroupScale ScaleOf(const uint8_t* block, int group) {
    const uint8_t* const scales = block + 96;
    const int low = scales[group % 8] >> (group / 8 * 4) & 15;
    const int high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
    return {Half(block + 108) * static_cast<float>((low | high << 4) - 32)};
  }
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i) {
    return Quarter256(block + 32, group, i) + 4 * Bit256(block, group, i) - 4;
  }
};

// The 6 bits of 8 scales and of 8 minima in 12 bytes, of 32 values each.
struct BlockMinima : BlockBits {
  LORA_BLOCK GroupScale ScaleOf(const uint8_t* block, int group) {
    const uint8_t* const packed = block + 4;
    const int j = group / 2;
    const int scale = j < 4 ? packed[j] & 63 : (packed[j + 4] & 15) | packed[j - 4] >> 6 << 4;
    const int least = j < 4 ? packed[j + 4] & 63 : packed[j + 4] >> 4 | packed[j] >> 6 << 4;
    return {Half(block) * static_cast<float>(scale),
            -(Half(block + 2) * static_cast<float>(least))};
  }
};
template <>
struct BlockDecoder<WeightFormat::kQ4_K> : BlockMinima {
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i) {
    return Half256(block + 16, group, i);
  }
};
template <>
struct BlockDecoder<WeightFormat::kQ5_K> : BlockMinima {
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i) {
    return Half256(block + 48, group, i) + 16 * Bit256(block + 16, group, i);
  }
};
template <>
struct BlockDecoder<WeightFormat::kQ6_K> : BlockBits {
  LORA_BLOCK GroupScale ScaleOf(const uint8_t* block, int group) {
    return {Half(block + 208) * static_cast<float>(static_cast<int8_t>(block[192 + group]))};
  }
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i) {
    const int quarter = group % 8 / 2;
    const int at = group / 8 * 64 + quarter % 2 * 32 + group % 2 * 16 + i;
    const int low = block[at] >> (quarter / 2 * 4) & 15;
    return (low | Quarter256(block + 128, group, i) << 4) - 32;
  }
};

template <>
struct BlockDecoder<WeightFormat::kIQ4_NL> : BlockBits {
  LORA_BLOCK GroupScale ScaleOf(const uint8_t* block, int) { return {Half(block)}; }
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i) {
    return Iq4(Half32(block + 2, group, i));
  }
};
template <>
struct BlockDecoder<WeightFormat::kIQ4_XS> : BlockBits {
  LORA_BLOCK GroupScale ScaleOf(const uint8_t* block, int group) {
    const int j = group / 2;
    const int high = static_cast<int>(Word16(block + 2) >> (j * 2) & 3u);
    return {Half(block) * static_cast<float>((Nibble(block + 4, j) | high << 4) - 32)};
  }
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i) {
    return Iq4(Half32(block + 8 + group / 2 * 16, group % 2, i));
  }
};
template <>
struct BlockDecoder<WeightFormat::kMXFP4> : BlockBits {
  // 2^(e − 127), halved, for codes are twice the values of FP4. The smallest two are subnormal.
  LORA_BLOCK GroupScale ScaleOf(const uint8_t* block, int) {
    const uint32_t e = block[0];
    return {std::bit_cast<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23)};
  }
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i) {
    const int code = Half32(block + 1, group, i), exponent = code >> 1 & 3, bit = code & 1;
    const int magnitude = exponent == 0 ? bit : (2 + bit) << (exponent - 1);
    return code < 8 ? magnitude : -magnitude;
  }
};

template <>
struct BlockDecoder<WeightFormat::kTQ1_0> : BlockBits {
  LORA_BLOCK GroupScale ScaleOf(const uint8_t* block, int) { return {Half(block + 52)}; }
  // A byte has 5 digits of base 3 as a fraction of 256: 32 bytes with 160 values, 16 with 80, and 4
  // with the 4 first digits of 16.
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i) {
    const int at = group < 10 ? group % 2 * 16 + i : group < 15 ? 32 + i : 48 + i % 4;
    const int digit = group < 10 ? group / 2 : group < 15 ? group - 10 : i / 4;
    const uint32_t power = uint32_t{0x1b090301u} >> (digit * 8 % 32) & 0xffu;
    const uint32_t rest = block[at] * (digit == 4 ? 81u : power) & 0xffu;
    return static_cast<int>(rest * 3 >> 8) - 1;
  }
};
template <>
struct BlockDecoder<WeightFormat::kTQ2_0> : BlockBits {
  LORA_BLOCK GroupScale ScaleOf(const uint8_t* block, int) { return {Half(block + 64)}; }
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i) {
    return Quarter256(block, group, i) - 1;
  }
};

template <>
struct BlockDecoder<WeightFormat::kIQ1_S> : BlockBits {
  LORA_BLOCK uint32_t High(const uint8_t* block, int group) {
    return Word16(block + 34 + group / 2 * 2);
  }
  // Codes are eighths.
  LORA_BLOCK GroupScale ScaleOf(const uint8_t* block, int group) {
    const uint32_t odd = 2 * (High(block, group) >> 12 & 7u) + 1;
    return {Half(block) * static_cast<float>(odd) * 0.125f};
  }
  static constexpr std::span<const uint16_t> kPoints = kIq1SCodebook.points;
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i, const uint16_t* points) {
    const uint32_t high = High(block, group);
    const int n = group * 2 + i / 8;
    const uint32_t point = block[2 + n] | (high >> (n % 4 * 3) & 7u) << 8;
    const int digit = points[point] >> (i % 8 * 2) & 3;
    return 8 * (digit - 1) + (high & 0x8000u ? -1 : 1);
  }
};
template <>
struct BlockDecoder<WeightFormat::kIQ2_S> : BlockBits {
  LORA_BLOCK GroupScale ScaleOf(const uint8_t* block, int group) {
    const float scale = static_cast<float>(Nibble(block + 74, group));
    return {Half(block) * (0.5f + scale) * 0.25f};
  }
  static constexpr std::span<const uint16_t> kPoints = kIq2SCodebook.points;
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i, const uint16_t* points) {
    const int n = group * 2 + i / 8;
    const uint32_t point = block[2 + n] | (block[66 + n / 4] >> (n % 4 * 2) & 3u) << 8;
    const int digit = points[point] >> (i % 8 * 2) & 3;
    return Signed(8 + 17 * digit + digit / 2, block + 34, group * 16 + i);  // 8, 25, 43
  }
};
template <>
struct BlockDecoder<WeightFormat::kIQ3_S> : BlockBits {
  LORA_BLOCK GroupScale ScaleOf(const uint8_t* block, int group) {
    return {Half(block) * static_cast<float>(1 + 2 * Nibble(block + 106, group / 2))};
  }
  static constexpr std::span<const uint16_t> kPoints = kIq3SCodebook.points;
  LORA_BLOCK int CodeOf(const uint8_t* block, int group, int i, const uint16_t* points) {
    const int n = group * 4 + i / 4;
    const uint32_t point = block[2 + n] | static_cast<uint32_t>(Bit(block + 66, n)) << 8;
    const int digit = points[point] >> (i % 4 * 3) & 7;
    return Signed(2 * digit + 1, block + 74, group * 16 + i);
  }
};

// Returns a code of any format. `points` are those of the format, in memory of whoever calls.
template <class Decoder>
[[gnu::always_inline]] constexpr int CodeOf(const uint8_t* block, int group, int i,
                                            const uint16_t* points) {
  if constexpr (requires { Decoder::kPoints; }) {
    return Decoder::CodeOf(block, group, i, points);
  } else {
    return Decoder::CodeOf(block, group, i);
  }
}
#undef LORA_BLOCK

// Calls use(BlockDecoder<format>()).
template <WeightFormat kFormat = kFirstBlocks, class Use>
constexpr void ForBlocks(WeightFormat format, const Use& use) {
  if (format == kFormat) {
    use(BlockDecoder<kFormat>());
  } else if constexpr (kFormat != kLastBlocks) {
    ForBlocks<static_cast<WeightFormat>(static_cast<int>(kFormat) + 1)>(format, use);
  }
}

// Returns the points of the codebook that a format has.
constexpr std::span<const uint16_t> PointsOf(WeightFormat format) {
  std::span<const uint16_t> points;
  ForBlocks(format, [&]<class Decoder>(Decoder) {
    if constexpr (requires { Decoder::kPoints; }) points = Decoder::kPoints;
  });
  return points;
}

}  // namespace lora
