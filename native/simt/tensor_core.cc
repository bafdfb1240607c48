// The sums of tensor cores, after Fasi, Higham, Mikaitis, Pranesh: Numerical behavior of NVIDIA
// tensor cores, PeerJ Computer Science 7:e330, 2021, and Khattak, Mikaitis: Accurate models of
// NVIDIA tensor cores, arXiv:2512.07004, 2025. A step takes several products, which are exact, and
// the accumulator. All are aligned to the largest exponent and lose what lies below a grid. Their
// sum is exact, and truncated to f32. On an A100, and on an RTX 3060, a step has eight products,
// and the grid one bit more than an f32 of that exponent; on an H100 and a B200 sixteen, and two
// bits. docs/internals/numerics.md has the bounds.
#include "simt/tensor_core.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace lora::simt {
namespace {

constexpr int kColumns = 8;  // of y and z
constexpr int kLeastExponent = -126, kLeastF16Exponent = -14;
// In the place of the exponent of 0, and of a number that is not finite. A product of both is NaN,
// and has one that is above all others.
constexpr int kOfZero = -1000, kNotFinite = 4000;

// Subnormal numbers have the least exponent.
int ExponentOf(float value, int least) {
  const uint32_t bits = std::bit_cast<uint32_t>(value) & 0x7fffffff;
  if (bits == 0) return kOfZero;
  if (bits >= 0x7f800000) return kNotFinite;
  return std::max(static_cast<int>(bits >> 23) - 127, least);
}

float PowerOfTwo(int exponent) {  // from −126 to 127
  return std::bit_cast<float>(static_cast<uint32_t>(exponent + 127) << 23);
}

// A product of two operands is exact in double, and so is the sum of what is left of all terms.
float Truncated(double value) {
  if (value == 0 || !std::isfinite(value)) return static_cast<float>(value);
  if (std::fabs(value) >= 0x1p128) return static_cast<float>(value);  // infinite
  const double unit = std::ldexp(1, std::max(std::ilogb(value) - 23, -149));
  return static_cast<float>(std::trunc(value / unit) * unit);
}

struct Exponents {
  int x[16][16], y[16][kColumns];
};

// kGridBits lie between the largest exponent and the grid.
template <int kProducts, int kGridBits>
struct Step {
  // Adds a step to one accumulator, whatever the numbers. `exponent` is the largest.
  static float Add(const float* x, const float (*y)[kColumns], int column, float z, int exponent) {
    double sum = 0;
    if (exponent >= 128) {
      // There is a number that is not finite, or products are beyond f32: the grid does not matter.
      sum = z;
      for (int k = 0; k < kProducts; ++k) sum += double{x[k]} * y[k][column];
      return Truncated(sum);
    }
    const double grid = std::ldexp(1, exponent - kGridBits);
    sum = std::trunc(z / grid);
    for (int k = 0; k < kProducts; ++k) sum += std::trunc(double{x[k]} * y[k][column] / grid);
    return Truncated(sum * grid);
  }

  // Adds products k0 and following to a row of z. Where all exponents are those of ordinary
  // numbers, terms are whole numbers of f32 on the grid, and eight of them and the accumulator fit
  // an int; the loops over columns are vectors.
  static void Add(const float (&x)[16][16], const float (&y)[16][kColumns],
                  const Exponents& exponents, int row, int k0, float (&z)[kColumns]) {
    static_assert(8 << (kGridBits + 2) <= 1 << 30 && kProducts % 8 == 0);
    constexpr int kLeast = -90, kMax = 120;
    constexpr uint64_t kBelowF32 = (uint64_t{1} << 29) - 1;  // of a double
    int e[kColumns];
    bool ordinary = true;
    for (int n = 0; n < kColumns; ++n) e[n] = ExponentOf(z[n], kLeastExponent);
    for (int k = k0; k < k0 + kProducts; ++k)
      for (int n = 0; n < kColumns; ++n)
        e[n] = std::max(e[n], exponents.x[row][k] + exponents.y[k][n]);
    for (int n = 0; n < kColumns; ++n) {
      e[n] = e[n] < kOfZero / 2 ? 0 : e[n];  // all terms are 0
      ordinary &= e[n] >= kLeast && e[n] <= kMax;
    }
    if (!ordinary) {
      for (int n = 0; n < kColumns; ++n) z[n] = Add(&x[row][k0], &y[k0], n, z[n], e[n]);
      return;
    }
    float scale[kColumns];
    int part[kColumns];
    double sum[kColumns] = {};
    for (int n = 0; n < kColumns; ++n) {
      scale[n] = PowerOfTwo(kGridBits - e[n]);
      part[n] = static_cast<int>(z[n] * scale[n]);
    }
    for (int k = k0; k < k0 + kProducts; k += 8) {
      for (int i = k; i < k + 8; ++i)
        for (int n = 0; n < kColumns; ++n)
          part[n] += static_cast<int>(x[row][i] * y[i][n] * scale[n]);
      for (int n = 0; n < kColumns; ++n) {
        sum[n] += part[n];
        part[n] = 0;
      }
    }
    for (int n = 0; n < kColumns; ++n) {
      const double cut = std::bit_cast<double>(std::bit_cast<uint64_t>(sum[n]) & ~kBelowF32);
      z[n] = static_cast<float>(cut) * PowerOfTwo(e[n] - kGridBits);
    }
  }

  static void AddAll(const float (&x)[16][16], const float (&y)[16][kColumns],
                     float (&z)[16][kColumns], bool f16) {
    const int least = f16 ? kLeastF16Exponent : kLeastExponent;
    Exponents exponents;
    for (int row = 0; row < 16; ++row)
      for (int k = 0; k < 16; ++k) exponents.x[row][k] = ExponentOf(x[row][k], least);
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < kColumns; ++n) exponents.y[k][n] = ExponentOf(y[k][n], least);
    for (int row = 0; row < 16; ++row)
      for (int k0 = 0; k0 < 16; k0 += kProducts) Add(x, y, exponents, row, k0, z[row]);
  }
};

}  // namespace

void MultiplyAdd(const float (&x)[16][16], const float (&y)[16][kColumns], float (&z)[16][kColumns],
                 bool f16, TensorCore model) {
  switch (model) {
    case TensorCore::kAmpere:
      return Step<8, 24>::AddAll(x, y, z, f16);
    case TensorCore::kHopper:
      return Step<16, 25>::AddAll(x, y, z, f16);
    case TensorCore::kF32:
      // A product of 16-bit operands is exact, so that an addition fused with it is the same.
      for (int row = 0; row < 16; ++row)
        for (int k = 0; k < 16; ++k)
          for (int n = 0; n < kColumns; ++n) z[row][n] += x[row][k] * y[k][n];
  }
}

}  // namespace lora::simt
