// How a frozen matrix is stored, apart from the dtype of the activations that it multiplies. A
// format is an entry of kFormats; packing, unpacking and the loops that read a packed matrix know
// its bits, and everything else knows the dtype in which an op sees the values.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "core/maths/ceil_div.h"
#include "core/maths/dtype.h"

namespace lora {

// The formats with a scale per row or per run of values, then plain floats, then GGUF's blocks.
// f64 is for gradient checks of the reference backend; JavaScript has no tensors of it.
enum class WeightFormat : uint8_t {
  kI8Rows,  // W[i, j] = q[i, j]·s[i] with q in int8, s in f32, rounded to f32
  kNF4,     // W[n] = code[q[n]]·s[n / 64] over the flattened matrix, s in f32, rounded to f32
  kFP4,     // the same with other codes
  kF32,
  kBF16,
  kF16,
  // Blocks along a row that hold their own scales, as GGUF files have them: block_formats.h
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ1_S,
  kIQ2_S,
  kIQ3_S,
  kIQ4_NL,
  kIQ4_XS,
  kTQ1_0,
  kTQ2_0,
  kMXFP4,
  kF64,  // see DType
};
constexpr WeightFormat kFirstBlocks = WeightFormat::kQ4_0, kLastBlocks = WeightFormat::kMXFP4;

// Which values share a scale.
enum class Scales : uint8_t { kNone, kRows, kBlocks };

// Values of the flattened matrix that share a scale of Scales::kBlocks.
constexpr int64_t kBlockValues = 64;

// Codes of 4 bits → values.
constexpr size_t kCodes = 16;
struct CodeTable {
  float values[kCodes];
  uint8_t bytes[sizeof(float)][kCodes];  // of the values, from the lowest on

  constexpr explicit CodeTable(const float (&of)[kCodes]) : values{}, bytes{} {
    for (size_t code = 0; code < kCodes; ++code) {
      values[code] = of[code];
      const uint32_t bits = std::bit_cast<uint32_t>(of[code]);
      for (size_t b = 0; b < sizeof(float); ++b)
        bytes[b][code] = static_cast<uint8_t>(bits >> (8 * b));
    }
  }
};
// NF4 has quantiles of the normal distribution (Dettmers et al., QLoRA,
// 2023, appendix E), FP4 a sign, two bits of exponent and one of fraction. Both are those of
// bitsandbytes.
inline constexpr CodeTable kNF4Codes({-0x1p0f, -0x1.647362p-1f, -0x1.0cd66p-1f, -0x1.94654p-2f,
                                      -0x1.23449ap-2f, -0x1.7a6a7ep-3f, -0x1.74f0e2p-4f, 0,
                                      0x1.45f5fep-4f, 0x1.4995c6p-3f, 0x1.f809bap-3f,
                                      0x1.5a0674p-2f, 0x1.c3497p-2f, 0x1.200f56p-1f, 0x1.722766p-1f,
                                      0x1p0f});
inline constexpr CodeTable kFP4Codes({0, 0x1.555556p-8f, 0x1.555556p-1f, 0x1p0f, 0x1.555556p-2f,
                                      0x1p-1f, 0x1.555556p-3f, 0x1p-2f, 0, -0x1.555556p-8f,
                                      -0x1.555556p-1f, -0x1p0f, -0x1.555556p-2f, -0x1p-1f,
                                      -0x1.555556p-3f, -0x1p-2f});

// So many neighboring values are in so many bytes.
struct BlockSize {
  int64_t values, bytes;
};

struct FormatTraits {
  const char* name;  // in sentences, and in pack() of JavaScript
  DType stored;      // of the values that pack() takes: the matrix, or the bytes of its codes
  BlockSize block;
  Scales scales = Scales::kNone;
  const CodeTable* codes =
      nullptr;        // of 4 bits. Value 2n of the flattened matrix is in the high ones
                      // of byte n.
  uint32_t zero = 0;  // the code whose value is 0
};

inline constexpr FormatTraits kFormats[] = {
    {"int8", DType::kI8, {1, 1}, Scales::kRows},
    {"nf4", DType::kI8, {2, 1}, Scales::kBlocks, &kNF4Codes, 7},
    {"fp4", DType::kI8, {2, 1}, Scales::kBlocks, &kFP4Codes, 0},
    {"f32", DType::kF32, {1, 4}},
    {"bf16", DType::kBF16, {1, 2}},
    {"f16", DType::kF16, {1, 2}},
    {"q4_0", DType::kI8, {32, 18}},
    {"q4_1", DType::kI8, {32, 20}},
    {"q5_0", DType::kI8, {32, 22}},
    {"q5_1", DType::kI8, {32, 24}},
    {"q8_0", DType::kI8, {32, 34}},
    {"q2_k", DType::kI8, {256, 84}},
    {"q3_k", DType::kI8, {256, 110}},
    {"q4_k", DType::kI8, {256, 144}},
    {"q5_k", DType::kI8, {256, 176}},
    {"q6_k", DType::kI8, {256, 210}},
    {"iq1_s", DType::kI8, {256, 50}},
    {"iq2_s", DType::kI8, {256, 82}},
    {"iq3_s", DType::kI8, {256, 110}},
    {"iq4_nl", DType::kI8, {32, 18}},
    {"iq4_xs", DType::kI8, {256, 136}},
    {"tq1_0", DType::kI8, {256, 54}},
    {"tq2_0", DType::kI8, {256, 66}},
    {"mxfp4", DType::kI8, {32, 17}},
    {"f64", DType::kF64, {1, 8}},
};
// Their names, for choices among them.
inline constexpr auto kFormatNames = [] {
  std::array<const char*, std::size(kFormats)> names{};
  for (size_t i = 0; i < names.size(); ++i) names[i] = kFormats[i].name;
  return names;
}();
inline constexpr size_t kFormatsWithScales = 3, kFormatsOfJavaScript = std::size(kFormats) - 1;

constexpr const FormatTraits& TraitsOf(WeightFormat format) {
  return kFormats[static_cast<size_t>(format)];
}
constexpr const char* NameOf(WeightFormat format) { return TraitsOf(format).name; }
constexpr DType StoredDType(WeightFormat format) { return TraitsOf(format).stored; }
constexpr bool HasCodes(WeightFormat format) { return TraitsOf(format).codes != nullptr; }
constexpr bool HasScales(WeightFormat format) { return TraitsOf(format).scales != Scales::kNone; }
constexpr bool HasBlocks(WeightFormat format) {
  return format >= kFirstBlocks && format <= kLastBlocks;
}
// Whether values are computed from what is stored, instead of being stored.
constexpr bool IsQuantized(WeightFormat format) { return HasScales(format) || HasBlocks(format); }

// Bytes of the values of W [rows, cols], and how many scales there are.
constexpr int64_t ValueBytes(WeightFormat format, int64_t rows, int64_t cols) {
  const BlockSize& block = TraitsOf(format).block;
  return CeilDiv(rows * cols, block.values) * block.bytes;
}
constexpr int64_t ScaleCount(WeightFormat format, int64_t rows, int64_t cols) {
  const Scales scales = TraitsOf(format).scales;
  if (scales == Scales::kNone) return 0;
  return scales == Scales::kRows ? rows : CeilDiv(rows * cols, kBlockValues);
}

// The code of value n of the flattened matrix.
inline uint32_t CodeAt(const uint8_t* bytes, size_t n) {
  return n % 2 == 0 ? bytes[n / 2] >> 4 : bytes[n / 2] & 15u;
}

// The format in which values of a dtype are stored as they are. DType::kI8 stands for kI8Rows.
constexpr WeightFormat FormatOf(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return WeightFormat::kBF16;
    case DType::kF16:
      return WeightFormat::kF16;
    case DType::kF64:
      return WeightFormat::kF64;
    case DType::kI8:
      return WeightFormat::kI8Rows;
    default:
      return WeightFormat::kF32;
  }
}

// Whether every value of a format is one of the dtype, but for the rounding of a product with its
// scale: bf16 and f16 weights fit f32 activations, and quantized ones fit f32 and bf16. Weights
// that are wider than the activations do not exist.
constexpr bool Fits(WeightFormat format, DType activations) {
  if (IsQuantized(format)) return activations == DType::kF32 || activations == DType::kBF16;
  if (format == WeightFormat::kBF16 || format == WeightFormat::kF16)
    return format == FormatOf(activations) || activations == DType::kF32;
  return format == FormatOf(activations);
}

}  // namespace lora
