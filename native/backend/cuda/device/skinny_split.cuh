// Factors of skinny.cuh as sums of bf16 numbers, which tensor cores multiply exactly.
#pragma once

#include <type_traits>

#include "backend/cuda/device/primitives.h"

namespace lora::device {

// Replaces x and y by what is left of them, and returns as bf16 pair what was taken: the 8 leading
// bits of each. Three such steps take all 24 bits of a float.
LORA_DEVICE uint32_t SplitPair(float& x, float& y) {
  const uint32_t high_x = FloatToBits(x) & 0xffff0000u, high_y = FloatToBits(y) & 0xffff0000u;
  x -= BitsToFloat(high_x);
  y -= BitsToFloat(high_y);
  return high_x >> 16 | high_y;
}

// Turns bits 0 and 1 into masks of the low and the high half of a word.
LORA_DEVICE uint32_t KeepHalves(uint32_t bits) {
  return ((bits & 1) != 0 ? 0xffffu : 0u) | ((bits & 2) != 0 ? 0xffff0000u : 0u);
}

// The fragment of Z for one mma as it is in memory: pairs of 16-bit elements, or pairs of floats.
template <class T>
struct SkinnyRaw {
  static constexpr int kWords = sizeof(T) == 2 ? 4 : 8;
  uint32_t words[kWords];  // register j's pair: words[j], or words[2j] and words[2j + 1]
};
// The same fragment as a sum of bf16 numbers.
template <class T>
struct SkinnyTerms {
  static constexpr int kTerms = sizeof(T) == 4 ? 3 : std::is_same_v<T, F16> ? 2 : 1;
  uint32_t term[kTerms][4];
};

// Splits the fragment of Z. keep[j] tells which of the two elements of register j are kept.
template <class T>
LORA_DEVICE void SplitSkinny(SkinnyTerms<T>& z, const SkinnyRaw<T>& raw,
                             const uint32_t (&keep)[4]) {
  LORA_UNROLL
  for (int j = 0; j < 4; ++j) {
    if constexpr (std::is_same_v<T, BF16>) {
      z.term[0][j] = raw.words[j] & KeepHalves(keep[j]);
    } else {
      float x, y;
      if constexpr (sizeof(T) == 2) {
        const uint32_t word = raw.words[j] & KeepHalves(keep[j]);
        x = ToFloat(F16{static_cast<uint16_t>(word)});
        y = ToFloat(F16{static_cast<uint16_t>(word >> 16)});
      } else {
        x = (keep[j] & 1) != 0 ? BitsToFloat(raw.words[2 * j]) : 0.0f;
        y = (keep[j] & 2) != 0 ? BitsToFloat(raw.words[2 * j + 1]) : 0.0f;
      }
      LORA_UNROLL
      for (int n = 0; n < SkinnyTerms<T>::kTerms; ++n) z.term[n][j] = SplitPair(x, y);
    }
  }
}

}  // namespace lora::device
