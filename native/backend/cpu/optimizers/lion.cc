// One pass over p, g and m reads 12 bytes per element and writes 8.
#include "backend/cpu/kernels.h"
#include "backend/cpu/optimizers/segments.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/optimizers/lion.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/optimizers/step-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
namespace {

struct LionRule {
  const LionFactors& f;

  HWY_INLINE void operator()(DF d, VF& p, VF g, VF& m) const {
    const VF blend = hn::MulAdd(hn::Set(d, f.blend_new), g, hn::Mul(hn::Set(d, f.blend), m));
    // 0 and NaN are their own signs.
    const VF zero = hn::Zero(d), one = hn::Set(d, 1.0f);
    const VF sign = hn::IfThenElse(hn::Gt(blend, zero), one,
                                   hn::IfThenElse(hn::Lt(blend, zero), hn::Neg(one), blend));
    p = hn::NegMulAdd(hn::Set(d, f.lr), sign, hn::Mul(hn::Set(d, f.decay), p));
    m = hn::MulAdd(hn::Set(d, f.momentum_new), g, hn::Mul(hn::Set(d, f.momentum), m));
  }
};

}  // namespace

void LionRange(const LionArgs::Segment& segment, const LionFactors& factors, size_t begin,
               size_t end) {
  StepSegment(LionRule{factors}, segment, begin, end, segment.m.as<float>() + begin);
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(LionRange);

void Run(const LionArgs& args, Scratch, Context& context) {
  const LionFactors factors = FactorsOf(args);
  ForElements(context, args.segments,
              [&](const LionArgs::Segment& segment, size_t begin, size_t end) {
                HWY_DYNAMIC_DISPATCH(LionRange)(segment, factors, begin, end);
              });
}

template PlannedCall Plan(const LionArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
