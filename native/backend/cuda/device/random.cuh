// Generates the seeded numbers that core/ops/random.h defines. A thread makes the four numbers of
// one Philox call in f64 and rounds once, which gives the bits that the host computes. (Functions
// of f64 may differ in the last place, which changes one rounding to f32 in 2²⁸.)
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/launch.h"
#include "core/maths/philox.h"

namespace lora::device {

struct RandomParams {
  static constexpr int kThreads = 256, kMinBlocks = 2;
  float* y;
  int64_t count;
  uint64_t seed;
  uint32_t stream;
  float lo, hi;
  float top, below_top;  // a uniform number that rounds up to `top` becomes the next smaller float
};

struct SinCosPair {
  double sin, cos;
};
// For an angle in [0, 2π], by fdlibm's polynomials. The multiple of π/2 nearest to it is subtracted
// in two parts, the first of which leaves no rounding error.
LORA_DEVICE SinCosPair SinCos(double angle) {
  const int quarters = static_cast<int>(angle * 0.63661977236758134 + 0.5);
  const double n = quarters;
  const double high = Fma(-n, 1.5707963267948966, angle);
  const double rest = n * 6.123233995736766e-17;
  const double x = high - rest, y = (high - x) - rest, z = x * x;
  const double v = z * x;
  double s = Fma(z, 1.58969099521155010221e-10, -2.50507602534068634195e-08);
  s = Fma(z, s, 2.75573137070700676789e-06);
  s = Fma(z, s, -1.98412698298579493134e-04);
  s = Fma(z, s, 8.33333333332248946124e-03);
  const double sin = x - ((z * (0.5 * y - v * s) - y) - v * -1.66666666666666324348e-01);
  double c = Fma(z, -1.13596475577881948265e-11, 2.08757232129817482790e-09);
  c = Fma(z, c, -2.75573143513906633035e-07);
  c = Fma(z, c, 2.48015872894767294178e-05);
  c = Fma(z, c, -1.38888888888741095749e-03);
  c = Fma(z, c, 4.16666666666666019037e-02);
  const double half = 0.5 * z, w = 1.0 - half;
  const double cos = w + (((1.0 - w) - half) + (z * (z * c) - x * y));
  const double a = quarters & 1 ? cos : sin, b = quarters & 1 ? sin : cos;
  return {quarters & 2 ? -a : a, (quarters + 1) & 2 ? -b : b};
}

template <bool kNormal>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(RandomParams::kThreads, RandomParams::kMinBlocks)
    Random(const LORA_GRID_CONSTANT RandomParams p) {
  const int64_t block = GlobalIndex<RandomParams::kThreads>();
  if (block * 4 >= p.count) return;
  constexpr uint32_t kTag = 0x52414e44;  // "RAND"
  const uint64_t counter = static_cast<uint64_t>(block);
  const PhiloxWords words = Philox4x32(
      p.seed,
      {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), p.stream, kTag});
  const double lo = p.lo, hi = p.hi;
  float values[4];
  LORA_UNROLL
  for (int j = 0; j < 4; j += 2) {
    const double u = UniformFromWord(words[static_cast<size_t>(j)]);
    const double v = UniformFromWord(words[static_cast<size_t>(j + 1)]);
    if constexpr (kNormal) {
      // 1 − u lies in (0, 1], so the logarithm is finite.
      const double radius = hi * Sqrt(-2.0 * Log(1.0 - u));
      const SinCosPair direction = SinCos(6.283185307179586 * v);
      values[j] = static_cast<float>(lo + MulRounded(radius, direction.cos));
      values[j + 1] = static_cast<float>(lo + MulRounded(radius, direction.sin));
    } else {
      const float low = static_cast<float>(lo + MulRounded(hi - lo, u));
      const float high = static_cast<float>(lo + MulRounded(hi - lo, v));
      values[j] = low >= p.top ? p.below_top : low;
      values[j + 1] = high >= p.top ? p.below_top : high;
    }
  }
  StoreElements(p.y, block * 4, p.count, values);
}

}  // namespace lora::device
