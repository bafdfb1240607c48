// Implements Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers:
// as easy as 1, 2, 3" (SC 2011). It makes four random words from a 128-bit counter and a 64-bit key
// and has no state. Functions that kernels call too are constexpr, so that nvcc compiles them for
// the device.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

namespace lora {

using PhiloxWords = std::array<uint32_t, 4>;

constexpr PhiloxWords Philox4x32(uint64_t key, PhiloxWords counter) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(kMultiplier0) * counter[0];
    const uint64_t p1 = static_cast<uint64_t>(kMultiplier1) * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ k0, static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return counter;
}

// The dropout mask has one fixed layout on every device. The Philox call with counter
// (column / 8, row, layer, forward) and key seed covers columns 8·c … 8·c + 7 of a row:
//   column 8·c + i uses the low (i even) or high (i odd) 16 bits of word i / 2;
//   it is kept if those bits are ≥ t = round(65536·p), at most 65535;
//   a kept value is multiplied by 65536 / (65536 − t).
inline uint32_t DropoutThreshold(float p) {
  // As p < 1, something is always kept and the scale below stays finite.
  return static_cast<uint32_t>(std::min(std::lround(65536.0 * p), 65535L));
}
constexpr float DropoutScale(uint32_t threshold) {
  return 65536.0f / (65536.0f - static_cast<float>(threshold));
}
constexpr bool DropoutKeeps(const PhiloxWords& words, int column_in_8, uint32_t threshold) {
  const uint32_t word = words[static_cast<size_t>(column_in_8 / 2)];
  return (column_in_8 % 2 == 0 ? word & 0xffffu : word >> 16) >= threshold;
}

// Returns a double in [0, 1) of 32 random bits.
constexpr double UniformFromWord(uint32_t word) { return word * (1.0 / 4294967296.0); }

}  // namespace lora
