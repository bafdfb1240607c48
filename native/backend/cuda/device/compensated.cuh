// Sums of f32 whose rounding errors are kept: as accurate as f64 would be, at the speed of f32
// where that of f64 is low. No compiler may reorder floating-point additions here (nvcc and gcc do
// not).
#pragma once

#include "backend/cuda/device/reduce.cuh"

namespace lora::device {

struct Compensated {
  float sum, rest;  // rest: what the roundings of `sum` lost

  LORA_DEVICE void Add(float value) {
    const float total = sum + value, part = total - sum;  // Knuth's TwoSum: exact
    rest += (sum - (total - part)) + (value - part);
    sum = total;
  }
  // A sum that is not finite has a rest of NaN.
  LORA_DEVICE float Value() const { return sum - sum == 0.0f ? sum + rest : sum; }
};

// The same bits whichever comes first.
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
