// log Σ exp of a row of logits, by a block that reads the row once. Each thread keeps the largest
// logit so far and the sum of exponentials relative to it, which it rescales when a larger logit
// comes; the block combines the threads. And what a row's part is, from which others compute it.
#pragma once

#include "backend/cuda/device/reduce.cuh"
#include "backend/cuda/device/rows.cuh"

namespace lora::device {

constexpr uint32_t kMinusInfinityBits = 0xff800000u;

LORA_DEVICE bool IsInfinite(float f) { return (FloatToBits(f) & 0x7fffffffu) == 0x7f800000u; }

// Some logits of a row: the largest m, Σ exp(l − m) and Σ exp(l − m)·(l − m).
struct RowPart {
  float largest, sum, weighted;
};

// The slope of cap·tanh(x / cap) where its value is `capped`, 1 without a cap.
LORA_DEVICE float SlopeOfCapped(float capped, float cap) {
  if (cap == 0) return 1;
  const float part = capped / cap;
  return Fma(-part, part, 1);
}

// All of the kThreads threads must call, and all get the result. `slots` are kThreads / 32 floats
// in shared memory. The first vector begins at `begin`: at FirstVector(logits) all vectors are
// aligned, and at 0 the bits of the sum do not depend on the row's address.
template <int kThreads, class T>
LORA_DEVICE double BlockLogSum(const T* logits, int64_t begin, int64_t vocab, float* slots) {
  constexpr int kN = 8;
  const float minus_infinity = BitsToFloat(kMinusInfinityBits);
  float largest = minus_infinity, sum = 0;
  for (int64_t i = begin + ThreadIndex() * kN; i < vocab; i += kThreads * kN) {
    float x[kN];
    LoadOfRow(x, logits, i, vocab, minus_infinity);
    float larger = largest;
    LORA_UNROLL
    for (int j = 0; j < kN; ++j) larger = Max()(larger, x[j]);
    if (largest < larger) {
      sum *= Exp(largest - larger);
      largest = larger;
    }
    // In a row of only −∞ each exponential must be 0, and not that of −∞ + ∞.
    const float base = largest == minus_infinity ? 0.0f : largest;
    LORA_UNROLL
    for (int j = 0; j < kN; ++j) x[j] = Exp(x[j] - base);
    LORA_UNROLL
    for (int step = 1; step < kN; step *= 2) {
      LORA_UNROLL
      for (int j = 0; j < kN; j += 2 * step) x[j] += x[j + step];
    }
    sum += x[0];
  }
  const float all_largest = BlockMax<kThreads>(largest, slots);
  if (largest != all_largest) sum *= Exp(largest - all_largest);
  sum = BlockSum<kThreads>(sum, slots);
  double lse = all_largest;
  if (!IsInfinite(all_largest)) lse += Log(static_cast<double>(sum));
  return lse;
}

}  // namespace lora::device
