// Sums f32 and keeps the rounding errors, which is as accurate as f64 and as fast as f32
// where f64 is slow. It relies on compilers that do not reorder floating-point additions
// (nvcc and gcc do not).
#pragma once

#include "backend/cuda/device/reduce.cuh"

namespace lora::device {

struct Compensated {
  float sum, rest;  // rest: the sum of the rounding errors of `sum`

  LORA_DEVICE void Add(float value) {
    const float total = sum + value, part = total - sum;  // Knuth's TwoSum: exact
    rest += (sum - (total - part)) + (value - part);
    sum = total;
  }
  // A sum that is not finite has a rest of NaN, so the rest is left out.
  LORA_DEVICE float Value() const { return sum - sum == 0.0f ? sum + rest : sum; }
};

// Returns the same bits in either order of its arguments.
LORA_DEVICE Compensated Joined(Compensated a, Compensated b) {
  Compensated joined{a.sum, 0.0f};
  joined.Add(b.sum);
  joined.rest += a.rest + b.rest;
  return joined;
}
struct JoinCompensated {
  LORA_DEVICE Compensated operator()(Compensated a, Compensated b) const { return Joined(a, b); }
};
LORA_DEVICE Compensated Butterfly(Compensated v, int mask) {
  const float sum = ShuffleXor(v.sum, mask);
  const float rest = ShuffleXor(v.rest, mask);
  return {sum, rest};
}

}  // namespace lora::device
