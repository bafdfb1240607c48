// AdamW's rule for a vector of elements, whether its state is kept in f32 or in 8 bits.
#if defined(LORA_BACKEND_CPU_OPTIMIZERS_ADAMW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_OPTIMIZERS_ADAMW_INL_H_
#undef LORA_BACKEND_CPU_OPTIMIZERS_ADAMW_INL_H_
#else
#define LORA_BACKEND_CPU_OPTIMIZERS_ADAMW_INL_H_
#endif

#include "backend/cpu/simd/vector-inl.h"
#include "core/ops/step_factors.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

struct AdamWRule {
  const AdamWFactors& f;

  HWY_INLINE void operator()(DF d, VF& p, VF g, VF& m, VF& v) const {
    m = hn::MulAdd(hn::Set(d, f.new1), g, hn::Mul(hn::Set(d, f.beta1), m));
    v = hn::MulAdd(hn::Mul(hn::Set(d, f.new2), g), g, hn::Mul(hn::Set(d, f.beta2), v));
    const VF root = hn::Mul(hn::Sqrt(v), hn::Set(d, f.rsqrt_correction2));
    const VF ratio = hn::Div(m, hn::Add(root, hn::Set(d, f.eps)));
    p = hn::NegMulAdd(hn::Set(d, f.step_size), ratio, hn::Mul(hn::Set(d, f.decay), p));
  }
};

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
