// One pass over p, g, m and v reads 16 bytes per element and writes 12; with p of bf16, 14 and 10.
#include "backend/cpu/kernels.h"
#include "backend/cpu/optimizers/segments.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/optimizers/adamw.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/optimizers/adamw-inl.h"
#include "backend/cpu/optimizers/step-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

void AdamWRange(const AdamWArgs::Segment& segment, const AdamWFactors& factors, size_t begin,
                size_t end) {
  StepSegment(AdamWRule{factors}, segment, begin, end, segment.m.as<float>() + begin,
              segment.v.as<float>() + begin);
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(AdamWRange);

void Run(const AdamWArgs& args, Scratch, Context& context) {
  const AdamWFactors factors = FactorsOf(args);
  ForElements(context, args.segments,
              [&](const AdamWArgs::Segment& segment, size_t begin, size_t end) {
                HWY_DYNAMIC_DISPATCH(AdamWRange)(segment, factors, begin, end);
              });
}

template PlannedCall Plan(const AdamWArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
