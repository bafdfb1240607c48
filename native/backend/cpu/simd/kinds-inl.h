// The formulas of elementwise kinds in vectors of f32. Operators and MulAdd are Highway's.
#if defined(LORA_BACKEND_CPU_SIMD_KINDS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_SIMD_KINDS_INL_H_
#undef LORA_BACKEND_CPU_SIMD_KINDS_INL_H_
#else
#define LORA_BACKEND_CPU_SIMD_KINDS_INL_H_
#endif

#include <cmath>

#include "backend/cpu/simd/math-inl.h"
#include "core/ops/tape.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

using Number = VF;
HWY_INLINE VF Of(float x) { return hn::Set(DF(), x); }
HWY_INLINE VF IfNegative(VF x, VF a, VF b) {
  return hn::IfThenElse(hn::Lt(x, hn::Zero(DF())), a, b);
}
HWY_INLINE VF IfPositive(VF x, VF a, VF b) {
  return hn::IfThenElse(hn::Gt(x, hn::Zero(DF())), a, b);
}
HWY_INLINE VF IfLess(VF x, VF y, VF a, VF b) { return hn::IfThenElse(hn::Lt(x, y), a, b); }
HWY_INLINE VF IfEqual(VF x, VF y, VF a, VF b) { return hn::IfThenElse(hn::Eq(x, y), a, b); }
// In this order, as in ExpBelow88.
HWY_INLINE VF AtLeast(float low, VF x) { return hn::Max(Of(low), x); }
HWY_INLINE VF AtMost(float high, VF x) { return hn::Min(Of(high), x); }
HWY_INLINE VF IfAbove(float high, VF x, VF a, VF b) {
  return hn::IfThenElse(hn::Gt(x, Of(high)), a, b);
}
HWY_INLINE VF Root(VF x) { return hn::Sqrt(x); }
// Highway's is for positive finite numbers.
HWY_INLINE VF Log(VF x) {
  const VF zero = hn::Zero(DF()), infinity = hn::Inf(DF());
  const VF y = hn::IfThenElse(hn::Lt(x, infinity), hn::Log(DF(), x), x);
  const VF below = hn::IfThenElse(hn::Lt(x, zero), hn::NaN(DF()), hn::Neg(infinity));
  return hn::IfThenElse(hn::Le(x, zero), below, y);
}
// Element by element: vectors would lose digits of large powers.
HWY_INLINE VF Power(VF x, VF y) {
  HWY_ALIGN float xs[kLanes], ys[kLanes];
  hn::Store(x, DF(), xs);
  hn::Store(y, DF(), ys);
  for (size_t i = 0; i < kLanes; ++i) xs[i] = std::pow(xs[i], ys[i]);
  return hn::Load(DF(), xs);
}

// Several vectors: one step of each after the other hides the latency of the steps.
template <size_t kCount>
struct Vectors {
  VF v[kCount];

  HWY_INLINE Vectors() {}
  HWY_INLINE Vectors(VF all) {
    HWY_UNROLL(8)
    for (size_t i = 0; i < kCount; ++i) v[i] = all;
  }
  template <class F>
  static HWY_INLINE Vectors Each(const F& f) {
    Vectors y;
    HWY_UNROLL(8)
    for (size_t i = 0; i < kCount; ++i) y.v[i] = f(i);
    return y;
  }
  friend HWY_INLINE Vectors operator*(const Vectors& a, const Vectors& b) {
    return Each([&](size_t i) HWY_ATTR { return hn::Mul(a.v[i], b.v[i]); });
  }
  friend HWY_INLINE Vectors MulAdd(const Vectors& a, const Vectors& b, const Vectors& c) {
    return Each([&](size_t i) HWY_ATTR { return hn::MulAdd(a.v[i], b.v[i], c.v[i]); });
  }
  friend HWY_INLINE Vectors AtLeast(float low, const Vectors& x) {
    return Each([&](size_t i) HWY_ATTR { return hn::Max(Of(low), x.v[i]); });
  }
  friend HWY_INLINE Vectors AtMost(float high, const Vectors& x) {
    return Each([&](size_t i) HWY_ATTR { return hn::Min(Of(high), x.v[i]); });
  }
  friend HWY_INLINE Vectors IfAbove(float high, const Vectors& x, const Vectors& a,
                                    const Vectors& b) {
    return Each([&](size_t i)
                    HWY_ATTR { return hn::IfThenElse(hn::Gt(x.v[i], Of(high)), a.v[i], b.v[i]); });
  }
};

template <class N>
struct SigmoidOf {
  N x, s, c;
};
HWY_INLINE SigmoidOf<VF> Sigmoid(VF x) {
  const SigmoidParts<1> parts({x});
  return {parts.x[0], parts.s[0], parts.c[0]};
}
template <size_t kCount>
HWY_INLINE SigmoidOf<Vectors<kCount>> Sigmoid(const Vectors<kCount>& x) {
  const SigmoidParts<kCount> parts(x.v);
  const auto each = [](const VF(&of)[kCount]) HWY_ATTR {
    return Vectors<kCount>::Each([&](size_t i) HWY_ATTR { return of[i]; });
  };
  return {each(parts.x), each(parts.s), each(parts.c)};
}

#define LORA_FORMULA HWY_INLINE
#include "core/maths/kinds.h"
#undef LORA_FORMULA

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
