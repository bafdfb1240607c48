// Rounds f32 to bf16 stochastically: to one of the two neighbors, and to each with the probability
// that makes the mean the number itself (Gupta et al., "Deep Learning with Limited Numerical
// Precision", 2015). A change of less than half a unit in the last place, which rounding to nearest
// drops, then arrives on the average. Functions that kernels call too are constexpr, so that nvcc
// compiles them for the device.
#pragma once

#include <cstdint>

#include "core/maths/philox.h"

namespace lora {

// The random bits have one fixed layout on every device. The Philox call with counter
// (i / 8, parameter, step, "SRND") and key seed covers elements 8·e … 8·e + 7 of a parameter:
//   element 8·e + i uses the low (i even) or high (i odd) 16 bits of word i / 2.
constexpr uint32_t kRoundingTag = 0x53524e44;  // "SRND"
constexpr PhiloxWords RoundingWords(uint64_t seed, uint32_t parameter, uint32_t step,
                                    uint64_t eighth) {
  return Philox4x32(seed, {static_cast<uint32_t>(eighth), parameter, step, kRoundingTag});
}
constexpr uint32_t RoundingBits(const PhiloxWords& words, int element_in_8) {
  const uint32_t word = words[static_cast<size_t>(element_in_8 / 2)];
  return element_in_8 % 2 == 0 ? word & 0xffffu : word >> 16;
}

// Returns bf16 of the f32 with these bits. The 16 random bits are added to the 16 that are dropped:
// they carry into the magnitude with probability dropped / 2¹⁶. What is a bf16, or infinite, stays
// as it is, and a NaN stays a (quiet) NaN.
constexpr uint16_t RoundStochastically(uint32_t bits, uint32_t random) {
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + random) >> 16);
}

}  // namespace lora
