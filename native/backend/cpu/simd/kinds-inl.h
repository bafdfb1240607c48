// The formulas of elementwise kinds in vectors of f32. Operators and MulAdd are Highway's.
#if defined(LORA_BACKEND_CPU_SIMD_KINDS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_SIMD_KINDS_INL_H_
#undef LORA_BACKEND_CPU_SIMD_KINDS_INL_H_
#else
#define LORA_BACKEND_CPU_SIMD_KINDS_INL_H_
#endif

#include "backend/cpu/simd/math-inl.h"
#include "core/ops/tape.h"

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
// In this order, as in ExpBelow88.
HWY_INLINE VF AtLeast(float low, VF x) { return hn::Max(Of(low), x); }
HWY_INLINE VF AtMost(float high, VF x) { return hn::Min(Of(high), x); }
HWY_INLINE VF Root(VF x) { return hn::Sqrt(x); }

struct OneSigmoid {
  VF x, s, c;
};
HWY_INLINE OneSigmoid Sigmoid(VF x) {
  const SigmoidParts<1> parts({x});
  return {parts.x[0], parts.s[0], parts.c[0]};
}

#define LORA_FORMULA HWY_INLINE
#include "core/maths/kinds.h"
#undef LORA_FORMULA

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
