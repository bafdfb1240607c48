// Values → blocks of ggml's formats, rounded as ggml rounds them: every operation in f32, one after
// the other. Of 32 values with one f16 scale d, m the value of largest magnitude:
//
//   Q8_0  d = |m| / 127,  32 bytes q = round(x / d), halves away from zero;  x ≈ d·q
//   Q4_0  d = m / −8,     q = min(15, ⌊x / d + 8.5⌋);                        x ≈ d·(q − 8)
//         16 bytes, value j in the low half of byte j, value j + 16 in the high one
//   Q5_0  d = m / −16,    q = min(31, ⌊x / d + 16.5⌋);                       x ≈ d·(q − 16)
//         32 bits with the fifth of each value, and the other four as in Q4_0
//
// Q4_K has 8 groups of 32 values, of which each has a scale s and a minimum m of 6 bits:
//
//   x ≈ d·s·q − e·m with q of 4 bits        bytes: d and e in f16, 12 of s and m, 128 of q
//
// A group is first fitted in floats: x ≈ a·q + c with c ≤ 0, so that Σ w·(a·q + c − x)² is small,
// where w = √(Σx²/32) + |x| makes large values count more. It is cut into 15 steps from its least
// value, or from 0, to its largest; then into 14.0, 14.1 … 16.0 steps from the best c so far to its
// largest value. To the codes of each cut a and c are fitted by least squares, and the first cut of
// least error is taken. Then d = max a / 63 and e = max −c / 63; a and c become s = round(a / d)
// and m = round(−c / e), and each q is rounded once more, by the values of the stored d·s and e·m.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "core/maths/blocks.h"

namespace lora {

// The formats of blocks that values are rounded to.
inline constexpr WeightFormat kWrittenBlocks[] = {WeightFormat::kQ8_0, WeightFormat::kQ5_0,
                                                  WeightFormat::kQ4_0, WeightFormat::kQ4_K};
// Their names, for choices among them.
inline constexpr auto kWrittenNames = [] {
  std::array<const char*, std::size(kWrittenBlocks)> names{};
  for (size_t i = 0; i < names.size(); ++i) names[i] = NameOf(kWrittenBlocks[i]);
  return names;
}();

// block ← finite values, as many as a block has. Returns false, with any bytes, where a scale is
// too large for f16.
bool EncodeBlock(WeightFormat format, const float* values, uint8_t* block);

// What every way to round to Q4_K shares.
namespace q4_k {

constexpr int kGroups = 8, kSize = 32, kCuts = 21;
constexpr float kMaxCode = 15;

// The number of steps of a cut.
constexpr float StepsOf(int cut) { return (0.1f * static_cast<float>(cut) - 1) + kMaxCode; }

// What the stored scale and minimum of a group are: d·s and e·m.
struct Stored {
  float step, minimum;
};
// The first 16 bytes of a block ← d, e, s and m of a group's a and c. Returns false where d or e is
// too large for f16.
bool StoreScales(const float (&a)[kGroups], const float (&c)[kGroups], uint8_t* block,
                 Stored (&stored)[kGroups]);

}  // namespace q4_k
}  // namespace lora
