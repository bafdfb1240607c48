// One pass over p, g and v reads 12 bytes per element and writes 8; without a velocity, 8 and 4.
#include "backend/cpu/kernels.h"
#include "backend/cpu/optimizers/segments.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/optimizers/sgd.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/optimizers/step-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
namespace {

struct SgdRule {
  const SgdFactors& f;

  HWY_INLINE VF Decayed(DF d, VF p, VF g) const {
    return hn::MulAdd(hn::Set(d, f.weight_decay), p, g);
  }
  HWY_INLINE void operator()(DF d, VF& p, VF g) const {
    p = hn::NegMulAdd(hn::Set(d, f.lr), Decayed(d, p, g), p);
  }
  HWY_INLINE void operator()(DF d, VF& p, VF g, VF& v) const {
    g = Decayed(d, p, g);
    const VF momentum = hn::Set(d, f.momentum);
    v = hn::MulAdd(momentum, v, g);
    p = hn::NegMulAdd(hn::Set(d, f.lr), f.nesterov != 0 ? hn::MulAdd(momentum, v, g) : v, p);
  }
};

}  // namespace

void SgdRange(const SgdArgs::Segment& segment, const SgdFactors& factors, size_t begin,
              size_t end) {
  const SgdRule rule{factors};
  if (segment.velocity) {
    StepSegment(rule, segment, begin, end, segment.velocity.as<float>() + begin);
  } else {
    StepSegment(rule, segment, begin, end);
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(SgdRange);

void Run(const SgdArgs& args, Scratch, Context& context) {
  const SgdFactors factors = FactorsOf(args);
  ForElements(context, args.segments,
              [&](const SgdArgs::Segment& segment, size_t begin, size_t end) {
                HWY_DYNAMIC_DISPATCH(SgdRange)(segment, factors, begin, end);
              });
}

template PlannedCall Plan(const SgdArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
