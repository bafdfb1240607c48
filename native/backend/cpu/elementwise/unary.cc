// y = f(x) and dx = g·f'(x), computed on blocks of f32 (vector-inl.h). Casts to and from i32 go
// through double, which holds every i32.
#include <cstring>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"
#include "core/ops/element.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/elementwise/unary.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/simd/kinds-inl.h"
#include "backend/cpu/simd/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
namespace {

template <class Kind>
struct UnaryValue {
  float alpha;
  HWY_INLINE VF operator()(DF, VF x) const { return Kind::Value(x, alpha); }
};
template <class Kind>
struct UnaryGradient {
  float alpha;
  HWY_INLINE VF operator()(DF, VF x, VF g) const { return Kind::Gradient(x, g, alpha); }
};

template <class F>
void Forward(const UnaryArgs& args, const F& f, size_t begin, size_t end) {
  HWY_ALIGN float xs[kBlock], ys[kBlock];
  for (size_t i = begin; i < end; i += kBlock) {
    const size_t n = std::min(kBlock, end - i);
    const WriteBlock y(args.y.data, args.y.dtype, i, ys);
    Map(f, n, y.to(), ReadBlock(args.x.data, args.x.dtype, i, n, xs));
    y.Finish(n);
  }
}

template <class F>
void Backward(const UnaryBackwardArgs& args, const F& f, size_t begin, size_t end) {
  HWY_ALIGN float xs[kBlock], gs[kBlock], ys[kBlock];
  for (size_t i = begin; i < end; i += kBlock) {
    const size_t n = std::min(kBlock, end - i);
    const WriteBlock dx(args.dx.data, args.dx.dtype, i, ys);
    Map(f, n, dx.to(), ReadBlock(args.x.data, args.x.dtype, i, n, xs),
        ReadBlock(args.g.data, args.g.dtype, i, n, gs));
    dx.Finish(n);
  }
}

}  // namespace

void UnaryRange(const UnaryArgs& args, size_t begin, size_t end) {
  unary::ForKind(args.kind,
                 [&]<class Kind>() { Forward(args, UnaryValue<Kind>{args.alpha}, begin, end); });
}

void UnaryBackwardRange(const UnaryBackwardArgs& args, size_t begin, size_t end) {
  unary::ForKind(args.kind, [&]<class Kind>() {
    Backward(args, UnaryGradient<Kind>{args.alpha}, begin, end);
  });
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(UnaryRange);
HWY_EXPORT(UnaryBackwardRange);

namespace {

size_t Grain(UnaryKind kind) { return kind < UnaryKind::kGelu ? kCheapGrain : kCostlyGrain; }

void CastInteger(const UnaryArgs& args, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) {
    const auto at = static_cast<int64_t>(i);
    Store(args.y, at, Load(args.x, at));
  }
}

}  // namespace

void Run(const UnaryArgs& args, Scratch, Context& context) {
  const bool copy = args.kind == UnaryKind::kCopy;
  const DType from = args.x.dtype, to = args.y.dtype;
  const bool integer = copy && (from == DType::kI32 || to == DType::kI32);
  if (from != DType::kI32 || !copy) RequireFloat("unary", from);
  if (to != DType::kI32 || !copy) RequireFloat("unary", to);
  ForRange(context, static_cast<size_t>(args.y.numel()), Grain(args.kind), kLineElements,
           [&](size_t begin, size_t end) {
             if (copy && from == to) {
               const size_t size = SizeOf(to);
               std::memmove(args.y.as<std::byte>() + begin * size,
                            args.x.as<const std::byte>() + begin * size, (end - begin) * size);
             } else if (integer) {
               CastInteger(args, begin, end);
             } else {
               HWY_DYNAMIC_DISPATCH(UnaryRange)(args, begin, end);
             }
           });
}

void Run(const UnaryBackwardArgs& args, Scratch, Context& context) {
  for (const TensorView* view : {&args.x, &args.g, &args.dx}) RequireFloat("unary", view->dtype);
  ForRange(context, static_cast<size_t>(args.dx.numel()), Grain(args.kind), kLineElements,
           [&](size_t begin, size_t end) {
             HWY_DYNAMIC_DISPATCH(UnaryBackwardRange)(args, begin, end);
           });
}

template PlannedCall Plan(const UnaryArgs&, int);
template PlannedCall Plan(const UnaryBackwardArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
