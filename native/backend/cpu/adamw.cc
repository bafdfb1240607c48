// One pass over p, g, m and v reads 16 bytes per element and writes 12. The factors that depend
// on the step are computed once, in double. The elements of all segments together are split
// evenly over the threads.
#include <cmath>

#include "backend/cpu/adamw_factors.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/adamw.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu {
namespace HWY_NAMESPACE {
namespace {

struct Update {
  VF32 p, m, v;
  HWY_INLINE Update(F32 d, const AdamWFactors& f, VF32 old_p, VF32 g, VF32 old_m, VF32 old_v) {
    m = hn::MulAdd(hn::Set(d, f.new1), g, hn::Mul(hn::Set(d, f.beta1), old_m));
    v = hn::MulAdd(hn::Mul(hn::Set(d, f.new2), g), g, hn::Mul(hn::Set(d, f.beta2), old_v));
    const VF32 root = hn::Mul(hn::Sqrt(v), hn::Set(d, f.rsqrt_correction2));
    const VF32 ratio = hn::Div(m, hn::Add(root, hn::Set(d, f.eps)));
    p = hn::NegMulAdd(hn::Set(d, f.step_size), ratio, hn::Mul(hn::Set(d, f.decay), old_p));
  }
};

}  // namespace

void AdamWRange(const AdamWArgs::Segment& segment, const AdamWFactors& factors, size_t begin,
                size_t end) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  float* p = segment.param.as<float>();
  const float* g = segment.grad.as<const float>();
  float* m = segment.m.as<float>();
  float* v = segment.v.as<float>();
  size_t i = begin;
  for (; i + lanes <= end; i += lanes) {
    const Update to(d, factors, ReadVec(d, p + i), ReadVec(d, g + i), ReadVec(d, m + i),
                    ReadVec(d, v + i));
    WriteVec(d, to.p, p + i);
    WriteVec(d, to.m, m + i);
    WriteVec(d, to.v, v + i);
  }
  if (i == end) return;
  const size_t n = end - i;
  const Update to(d, factors, ReadPart(d, p + i, n), ReadPart(d, g + i, n), ReadPart(d, m + i, n),
                  ReadPart(d, v + i, n));
  WritePart(d, to.p, p + i, n);
  WritePart(d, to.m, m + i, n);
  WritePart(d, to.v, v + i, n);
}

}  // namespace HWY_NAMESPACE
}  // namespace lora::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(AdamWRange);

void Run(const AdamWArgs& args, Scratch, Context& context) {
  const double steps = static_cast<double>(args.step);
  AdamWFactors factors;
  factors.decay = static_cast<float>(1 - args.lr * args.weight_decay);
  factors.beta1 = static_cast<float>(args.beta1);
  factors.new1 = static_cast<float>(1 - args.beta1);
  factors.beta2 = static_cast<float>(args.beta2);
  factors.new2 = static_cast<float>(1 - args.beta2);
  factors.rsqrt_correction2 = static_cast<float>(1 / std::sqrt(1 - std::pow(args.beta2, steps)));
  factors.eps = static_cast<float>(args.eps);
  factors.step_size = static_cast<float>(args.lr / (1 - std::pow(args.beta1, steps)));

  size_t total = 0;
  for (const auto& segment : args.segments) total += static_cast<size_t>(segment.param.numel());
  ForRange(context, total, kCheapGrain / 4, kLineElements, [&](size_t begin, size_t end) {
    size_t first = 0;  // index of the segment's first element among those of all segments
    for (const auto& segment : args.segments) {
      const size_t last = first + static_cast<size_t>(segment.param.numel());
      const size_t from = std::max(first, begin), to = std::min(last, end);
      if (from < to) {
        HWY_DYNAMIC_DISPATCH(AdamWRange)(segment, factors, from - first, to - first);
      }
      first = last;
    }
  });
}

}  // namespace lora::cpu
#endif  // HWY_ONCE
