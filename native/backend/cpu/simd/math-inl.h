// Functions of vectors of f32: powers, the sigmoid, the normal distribution.
#if defined(LORA_BACKEND_CPU_SIMD_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_SIMD_MATH_INL_H_
#undef LORA_BACKEND_CPU_SIMD_MATH_INL_H_
#else
#define LORA_BACKEND_CPU_SIMD_MATH_INL_H_
#endif

#include <cstddef>

#include "backend/cpu/simd/simd-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// pᵢ ← P(xᵢ), whose coefficients begin with the highest. One step of each vector after the other
// hides the latency of the steps.
template <size_t kCount, class... Floats>
HWY_INLINE void Polynomial(VF (&p)[kCount], const VF (&x)[kCount], float highest,
                           Floats... coefficients) {
  HWY_UNROLL(8)
  for (size_t i = 0; i < kCount; ++i) p[i] = hn::Set(DF(), highest);
  const auto step = [&](float coefficient) HWY_ATTR {
    HWY_UNROLL(8)
    for (size_t i = 0; i < kCount; ++i) p[i] = hn::MulAdd(p[i], x[i], hn::Set(DF(), coefficient));
  };
  (step(coefficients), ...);
}
// xᵢ ← 2ⁿ·P(xᵢ), where the low bits of `shifted` are n with the exponent bias.
template <size_t kCount, class... Floats>
HWY_INLINE void PolynomialTimesPower(VF (&x)[kCount], const VF (&shifted)[kCount],
                                     Floats... coefficients) {
  const DU du;
  VF p[kCount];
  Polynomial(p, x, coefficients...);
  HWY_UNROLL(8)
  for (size_t i = 0; i < kCount; ++i) {
    x[i] = hn::Mul(p[i], hn::BitCast(DF(), hn::ShiftLeft<23>(hn::BitCast(du, shifted[i]))));
  }
}

// xᵢ ← e^xᵢ to about 1 ulp for xᵢ ≤ 88, and 0 where that is below the normal range; NaN for NaN:
//   x = n·ln 2 + r with |r| ≤ ln 2 / 2
// n is rounded by adding 1.5·2²³, and with the exponent bias beside it, its low bits are those of
// 2ⁿ. e^r is a minimax polynomial, whose relative error is 4e-9 with these rounded coefficients.
template <size_t kCount>
HWY_INLINE void ExpBelow88(VF (&x)[kCount]) {
  const VF bias = hn::Set(DF(), 12582912.0f + 127.0f);
  VF shifted[kCount];
  HWY_UNROLL(8)
  for (size_t i = 0; i < kCount; ++i) {
    // Of a NaN and a number, the x86 instruction returns its second operand. At −88, 2ⁿ is 0.
    x[i] = hn::Max(hn::Set(DF(), -88.0f), x[i]);
  }
  HWY_UNROLL(8)
  for (size_t i = 0; i < kCount; ++i) {
    shifted[i] = hn::MulAdd(x[i], hn::Set(DF(), 1.44269504f), bias);
  }
  HWY_UNROLL(8)
  for (size_t i = 0; i < kCount; ++i) {
    const VF n = hn::Sub(shifted[i], bias);
    x[i] = hn::NegMulAdd(n, hn::Set(DF(), 0.693359375f), x[i]);
    x[i] = hn::NegMulAdd(n, hn::Set(DF(), -2.12194440e-4f), x[i]);
  }
  PolynomialTimesPower(x, shifted, 1.381459879e-3f, 8.368716575e-3f, 4.166838899e-2f,
                       1.666652113e-1f, 4.999999404e-1f, 1.0f, 1.0f);
}
HWY_INLINE VF ExpBelow88(VF x) {
  VF one[1] = {x};
  ExpBelow88(one);
  return one[0];
}

// The same for every x: +inf above 88.4.
HWY_INLINE VF Exp(VF x) { return ExpBelow88(hn::Min(hn::Set(DF(), 89.0f), x)); }

// tᵢ ← 2^tᵢ to about 1 ulp for tᵢ ≤ 127, and 0 or a subnormal number where that is below the normal
// range; NaN for NaN.
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
// AVX-512 has an instruction for t − ⌊t⌋, which is 0 for an infinity, and one for p·2^⌊t⌋. The
// polynomial is minimax on [0, 1), with a relative error of 2e-9.
template <size_t kCount>
HWY_INLINE void Exp2Below127(VF (&t)[kCount]) {
  VF p[kCount], fraction[kCount];
  HWY_UNROLL(4)
  for (size_t i = 0; i < kCount; ++i) {
    fraction[i] = VF{_mm512_reduce_ps(t[i].raw, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
  }
  Polynomial(p, fraction, 2.156597184e-4f, 1.248228946e-3f, 9.673775174e-3f, 5.548618361e-2f,
             2.402290851e-1f, 6.931470633e-1f, 1.0f);
  HWY_UNROLL(4)
  for (size_t i = 0; i < kCount; ++i) t[i] = VF{_mm512_scalef_ps(p[i].raw, t[i].raw)};
}
#else
// n is rounded as above; here n and t − n are exact.
template <size_t kCount>
HWY_INLINE void Exp2Below127(VF (&t)[kCount]) {
  const VF bias = hn::Set(DF(), 12582912.0f + 127.0f);
  VF shifted[kCount];
  HWY_UNROLL(4)
  for (size_t i = 0; i < kCount; ++i) t[i] = hn::Max(hn::Set(DF(), -127.0f), t[i]);
  HWY_UNROLL(4)
  for (size_t i = 0; i < kCount; ++i) shifted[i] = hn::Add(t[i], bias);
  HWY_UNROLL(4)
  for (size_t i = 0; i < kCount; ++i) t[i] = hn::Sub(t[i], hn::Sub(shifted[i], bias));
  PolynomialTimesPower(t, shifted, 1.532427996e-4f, 1.339098089e-3f, 9.618517943e-3f,
                       5.550359562e-2f, 2.402264774e-1f, 6.931471825e-1f, 1.0f);
}
#endif
HWY_INLINE VF Exp2Below127(VF t) {
  VF one[1] = {t};
  Exp2Below127(one);
  return one[0];
}

// Returns 1/x to about 1 ulp where that is a normal number. With vectors of 64 bytes a division
// takes half as long as an exponential; a Newton step doubles the 14 bits of the approximation.
HWY_INLINE VF Reciprocal(VF x) {
  const VF one = hn::Set(DF(), 1.0f);
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  const VF y = hn::ApproximateReciprocal(x);
  return hn::MulAdd(y, hn::NegMulAdd(x, y, one), y);
#else
  return hn::Div(one, x);
#endif
}

// s = σ(x) and c = 1 − σ(x) = σ(−x) of several vectors, each accurate by itself, for an x that is
// raised to −87.3 at least. There σ is the smallest normal number, and products of x and σ vanish
// beyond.
template <size_t kCount>
struct SigmoidParts {
  VF x[kCount], s[kCount], c[kCount];
  HWY_INLINE SigmoidParts(const VF (&arguments)[kCount]) {
    VF e[kCount];
    HWY_UNROLL(8)
    for (size_t i = 0; i < kCount; ++i) {
      x[i] = hn::Max(hn::Set(DF(), -87.3f), arguments[i]);  // in this order, as in ExpBelow88
      e[i] = hn::Neg(x[i]);
    }
    ExpBelow88(e);
    HWY_UNROLL(8)
    for (size_t i = 0; i < kCount; ++i) {
      s[i] = Reciprocal(hn::Add(e[i], hn::Set(DF(), 1.0f)));
      c[i] = hn::Mul(e[i], s[i]);
    }
  }
};

// Φ(x) and the density φ(x) of the normal distribution, to a few units in the last place, the tail
// included. With z = |x| / √2:
//   Φ(−|x|) = exp(−x²/2)·P(q) / (2·(1 + 2z)),  q = (z − 2)/(z + 2)
// where P is a least squares fit of (1 + 2z)·exp(z²)·erfc(z) for z ≤ 10.6, whose relative error
// is 1.6e-8.
struct NormalPair {
  VF cdf, density;
};
HWY_INLINE NormalPair Normal(VF x) {
  const DU du;
  const VF one = hn::Set(DF(), 1.0f);
  // Splits x² into s + e, so that the error of s does not grow with |x| in the exponential.
  const VF hi = hn::BitCast(DF(), hn::And(hn::BitCast(du, x), hn::Set(du, 0xfffff000u)));
  const VF lo = hn::Sub(x, hi);
  const VF s = hn::Mul(x, x);
  const VF cross = hn::Add(hn::Sub(hn::Mul(hi, hi), s), hn::Mul(hn::Add(hi, hi), lo));
  const VF e = hn::Add(cross, hn::Mul(lo, lo));
  const VF half = hn::Set(DF(), 0.5f);
  const VF rough = Exp(hn::Mul(s, hn::Set(DF(), -0.5f)));
  // Where rough is 0 the correction may be NaN (∞ − ∞), so bell is set to 0.
  const VF exact = hn::Mul(rough, hn::Sub(one, hn::Mul(half, e)));
  const VF bell = hn::IfThenElse(hn::Eq(rough, hn::Zero(DF())), hn::Zero(DF()), exact);

  const VF z = hn::Mul(hn::Abs(x), hn::Set(DF(), 0.70710678f));
  const VF two = hn::Set(DF(), 2.0f);
  // Beyond the fit bell is 0 in f32; the cut keeps q finite.
  const VF cut = hn::Min(z, hn::Set(DF(), 10.6f));
  const VF q = hn::Div(hn::Sub(cut, two), hn::Add(cut, two));
  VF p = hn::Set(DF(), -3.950086248e-4f);
  p = hn::MulAdd(p, q, hn::Set(DF(), -1.220495673e-3f));
  p = hn::MulAdd(p, q, hn::Set(DF(), 1.312294742e-3f));
  p = hn::MulAdd(p, q, hn::Set(DF(), 8.623785339e-3f));
  p = hn::MulAdd(p, q, hn::Set(DF(), -8.061118424e-3f));
  p = hn::MulAdd(p, q, hn::Set(DF(), -5.420219526e-2f));
  p = hn::MulAdd(p, q, hn::Set(DF(), 1.640557349e-1f));
  p = hn::MulAdd(p, q, hn::Set(DF(), -1.660316139e-1f));
  p = hn::MulAdd(p, q, hn::Set(DF(), -9.276400507e-2f));
  p = hn::MulAdd(p, q, hn::Set(DF(), 1.276978374f));
  const VF tail = hn::Div(hn::Mul(hn::Mul(half, bell), p), hn::MulAdd(two, cut, one));
  const VF cdf = hn::IfThenElse(hn::Lt(x, hn::Zero(DF())), tail, hn::Sub(one, tail));
  return {cdf, hn::Mul(bell, hn::Set(DF(), 0.39894228f))};
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
