// y ← y + x, computed on blocks of f32 (vector-inl.h).
#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/elementwise/accumulate.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/simd/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
namespace {

struct Sum {
  HWY_INLINE VF operator()(DF, VF a, VF b) const { return hn::Add(a, b); }
};

}  // namespace

void AccumulateRange(const AccumulateArgs& args, size_t begin, size_t end) {
  HWY_ALIGN float xs[kBlock], old[kBlock], sums[kBlock];
  for (size_t i = begin; i < end; i += kBlock) {
    const size_t n = std::min(kBlock, end - i);
    const WriteBlock y(args.y.data, args.y.dtype, i, sums);
    Map(Sum(), n, y.to(), ReadBlock(args.y.data, args.y.dtype, i, n, old),
        ReadBlock(args.x.data, args.x.dtype, i, n, xs));
    y.Finish(n);
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(AccumulateRange);

void Run(const AccumulateArgs& args, Scratch, Context& context) {
  for (const TensorView* view : {&args.x, &args.y}) RequireFloat("accumulate", view->dtype);
  ForRange(
      context, static_cast<size_t>(args.y.numel()), kCheapGrain, kLineElements,
      [&](size_t begin, size_t end) { HWY_DYNAMIC_DISPATCH(AccumulateRange)(args, begin, end); });
}

template PlannedCall Plan(const AccumulateArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
