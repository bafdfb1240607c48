// Computes σ and Φ in f32, accurate to a few units in the last place everywhere, the tails
// included. The formulas are those of the CPU backend (cpu/simd/math-inl.h).
#pragma once

#include "backend/cuda/device/primitives.h"

namespace lora::device {

LORA_DEVICE float Absolute(float x) { return x < 0.0f ? -x : x; }

// Beside x, σ(x) and 1 − σ(x) = σ(−x), each accurate by itself and without overflow on the way.
struct SigmoidParts {
  float x, s, c;
};
LORA_DEVICE SigmoidParts Sigmoid(float x) {
  const float e = Exp(-Absolute(x));
  const float big = 1.0f / (1.0f + e), small = e * big;
  return x < 0.0f ? SigmoidParts{x, small, big} : SigmoidParts{x, big, small};
}

// Φ(x) and the density φ(x) of the normal distribution. With z = |x| / √2:
//   Φ(−|x|) = exp(−x²/2)·P(q) / (2·(1 + 2z)),  q = (z − 2)/(z + 2)
// where P is a least squares fit of (1 + 2z)·exp(z²)·erfc(z) for z ≤ 10.6, whose relative error
// is 1.6e-8.
struct NormalPair {
  float cdf, density;
};
LORA_DEVICE NormalPair Normal(float x) {
  // Splits x² into s + e, so that the error of s does not grow with |x| in the exponential.
  const float s = x * x, e = Fma(x, x, -s);
  const float rough = Exp(-0.5f * s);
  // Where rough is 0 the correction may be NaN (∞ − ∞), so bell is set to 0.
  const float bell = rough == 0.0f ? 0.0f : rough * (1.0f - 0.5f * e);
  const float z = Absolute(x) * 0.70710678f;
  const float cut = z > 10.6f ? 10.6f : z;  // beyond the fit bell is 0 in f32; q stays finite
  const float q = (cut - 2.0f) / (cut + 2.0f);
  float p = -3.950086248e-4f;
  p = Fma(p, q, -1.220495673e-3f);
  p = Fma(p, q, 1.312294742e-3f);
  p = Fma(p, q, 8.623785339e-3f);
  p = Fma(p, q, -8.061118424e-3f);
  p = Fma(p, q, -5.420219526e-2f);
  p = Fma(p, q, 1.640557349e-1f);
  p = Fma(p, q, -1.660316139e-1f);
  p = Fma(p, q, -9.276400507e-2f);
  p = Fma(p, q, 1.276978374f);
  const float tail = 0.5f * bell * p / Fma(2.0f, cut, 1.0f);
  return {x < 0.0f ? tail : 1.0f - tail, bell * 0.39894228f};
}

}  // namespace lora::device
