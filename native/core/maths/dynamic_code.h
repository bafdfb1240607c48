// Numbers of 8 bits in [-1, 1], dense near 0: the "dynamic tree" of Dettmers, "8-bit approximations
// for parallelism in deep learning" (2016), as Dettmers et al., "8-bit optimizers via block-wise
// quantization" (2022, arXiv 2110.02861), keep an optimizer's state.
//
// The bits of a code are zeros, which count powers of ten, a one that ends them, and the number of
// one of the equal parts of [0.1, 1], whose middle is the value. With a code of 2^k + j,
// 0 <= j < 2^k, and K = 6 beside a sign bit, or K = 7 without a sign:
//   value = 10^(k − K)·(0.1 + 0.9·(j + ½)/2^k)
// Code 0 is 0. The code that is left over is the value 1: 128 (minus zero) with a sign, and 1
// without, where k begins at 1.
//
// Without a sign only 0 gets code 0, and smaller numbers than the least value are rounded up to it.
// Such codes keep second moments, by whose roots AdamW divides: one that is rounded to 0 leaves ε
// alone there, and a single step then destroys a model (the "zero-point problem" of Li, Chen and
// Zhu, "Memory efficient optimizers with 4-bit states", 2023, arXiv 2309.01507).
//
// Functions that kernels call too are constexpr, so that nvcc compiles them for the device.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace lora {

// What the functions below need of a kind of code. A decade is a k, from the smallest up.
struct DynamicTree {
  static constexpr int kDecades = 7;
  uint32_t has_sign;      // 0 or 1
  uint32_t first;         // 2^k of the first decade
  float unit[kDecades];   // value = (18·c + 9 − 16·2^k)·unit
  float above[kDecades];  // a number above this one, half-way from the decade below, is in it
  float slope[kDecades];  // c is the whole part of slope·|x| + 8/9·2^k
  float zero, one;        // up to the first a number has the code of 0; above the second, that of 1
  uint32_t padding = 0;   // kernels take it in structs of whole 8 bytes
};

constexpr DynamicTree MakeDynamicTree(bool has_sign) {
  DynamicTree tree{};
  tree.has_sign = has_sign;
  tree.first = has_sign ? 1 : 2;
  constexpr double kPowers[] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1};  // 10^(k − K)
  double places = tree.first;                                            // 2^k
  double below = 0;  // the value before a decade's first
  for (int i = 0; i < DynamicTree::kDecades; ++i) {
    const double power = kPowers[i];
    const double least = power * (0.1 + 0.45 / places);
    tree.unit[i] = static_cast<float>(power / (20 * places));
    tree.above[i] = static_cast<float>((below + least) / 2);
    tree.slope[i] = static_cast<float>(places / (0.9 * power));
    below = power * (1 - 0.45 / places);
    places *= 2;
  }
  tree.zero = has_sign ? tree.above[0] : 0;
  tree.one = static_cast<float>((below + 1) / 2);
  return tree;
}

// One product of an exact number and a constant: every device computes the same bits.
constexpr float DynamicValue(const DynamicTree& tree, uint32_t code) {
  const uint32_t c = tree.has_sign ? code & 127 : code;
  if (code == 0) return 0;
  if (c < tree.first) return 1;
  int decade = 0;
  uint32_t places = tree.first;
  while (c >= 2 * places) {
    places *= 2;
    ++decade;
  }
  const float value = static_cast<float>(18 * c + 9 - 16 * places) * tree.unit[decade];
  return c == code ? value : -value;
}

// Returns the code whose value is nearest to x, a number in [-1, 1], or in [0, 1] without a sign;
// there it is the code of 0 for 0 alone.
constexpr uint32_t DynamicCode(const DynamicTree& tree, float x) {
  const float a = x < 0 ? -x : x;
  const bool negative = x < 0;
  if (a <= tree.zero) return 0;
  if (a > tree.one && !negative) return tree.has_sign ? 128 : 1;
  float slope = tree.slope[0], places = static_cast<float>(tree.first);
  float next = places;
  for (int i = 1; i < DynamicTree::kDecades; ++i) {
    next *= 2;
    if (a > tree.above[i]) {
      slope = tree.slope[i];
      places = next;
    }
  }
  float place = slope * a + places * (8.0f / 9.0f);
  if (place < places) place = places;
  if (place > 2 * places - 1) place = 2 * places - 1;
  return static_cast<uint32_t>(place) + (negative ? 128 : 0);
}

constexpr std::array<float, 256> DynamicValues(const DynamicTree& tree) {
  std::array<float, 256> values{};
  for (uint32_t code = 0; code < 256; ++code) values[code] = DynamicValue(tree, code);
  return values;
}

inline constexpr DynamicTree kSignedTree = MakeDynamicTree(true);
inline constexpr DynamicTree kUnsignedTree = MakeDynamicTree(false);
inline constexpr std::array<float, 256> kSignedValues = DynamicValues(kSignedTree);
inline constexpr std::array<float, 256> kUnsignedValues = DynamicValues(kUnsignedTree);

// The numbers of a block share a factor, the largest of their magnitudes.
constexpr int64_t kDynamicBlock = 256;

}  // namespace lora
