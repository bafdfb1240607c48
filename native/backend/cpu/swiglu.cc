// With s = σ(gate):
//   y     = gate·s·up
//   dup   = g·gate·s
//   dgate = g·up·s·(1 + gate·(1 − s))
#include "backend/cpu/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/swiglu.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu {
namespace HWY_NAMESPACE {
namespace {

struct Swiglu {
  HWY_INLINE VF32 operator()(F32 d, VF32 gate, VF32 up) const {
    const SigmoidParts sigmoid(d, gate);
    return hn::Mul(hn::Mul(sigmoid.x, up), sigmoid.s);
  }
};

struct SwigluGradients {
  VF32 gate, up;
  HWY_INLINE SwigluGradients(F32 d, VF32 x, VF32 u, VF32 g) {
    const SigmoidParts sigmoid(d, x);
    const VF32 gs = hn::Mul(g, sigmoid.s);
    up = hn::Mul(gs, sigmoid.x);
    gate = hn::Mul(hn::Mul(gs, u), hn::MulAdd(sigmoid.x, sigmoid.c, hn::Set(d, 1.0f)));
  }
};

template <class T>
void Forward(const SwigluForwardArgs& args, size_t begin, size_t end) {
  Map(Swiglu(), end - begin, args.y.as<T>() + begin, args.gate.as<const T>() + begin,
      args.up.as<const T>() + begin);
}

template <class T>
void Backward(const SwigluBackwardArgs& args, size_t begin, size_t end) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  const T *gate = args.gate.as<const T>(), *up = args.up.as<const T>(), *g = args.g.as<const T>();
  T *dgate = args.dgate.as<T>(), *dup = args.dup.as<T>();
  size_t i = begin;
  for (; i + 2 * lanes <= end; i += 2 * lanes) {
    const VF32x2 x = ReadTwo(d, gate + i), u = ReadTwo(d, up + i), v = ReadTwo(d, g + i);
    const SwigluGradients a(d, x.a, u.a, v.a), b(d, x.b, u.b, v.b);
    WriteTwo(d, {a.gate, b.gate}, dgate + i);
    WriteTwo(d, {a.up, b.up}, dup + i);
  }
  for (; i + lanes <= end; i += lanes) {
    const SwigluGradients out(d, ReadVec(d, gate + i), ReadVec(d, up + i), ReadVec(d, g + i));
    WriteVec(d, out.gate, dgate + i);
    WriteVec(d, out.up, dup + i);
  }
  if (i == end) return;
  const size_t n = end - i;
  const SwigluGradients out(d, ReadPart(d, gate + i, n), ReadPart(d, up + i, n),
                            ReadPart(d, g + i, n));
  WritePart(d, out.gate, dgate + i, n);
  WritePart(d, out.up, dup + i, n);
}

}  // namespace

void SwigluForwardRange(const SwigluForwardArgs& args, size_t begin, size_t end) {
  if (args.y.dtype == DType::kBF16) {
    Forward<hwy::bfloat16_t>(args, begin, end);
  } else {
    Forward<float>(args, begin, end);
  }
}

void SwigluBackwardRange(const SwigluBackwardArgs& args, size_t begin, size_t end) {
  if (args.g.dtype == DType::kBF16) {
    Backward<hwy::bfloat16_t>(args, begin, end);
  } else {
    Backward<float>(args, begin, end);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lora::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(SwigluForwardRange);
HWY_EXPORT(SwigluBackwardRange);

void Run(const SwigluForwardArgs& args, Scratch, Context& context) {
  RequireActivation("swiglu", args.y.dtype);
  ForRange(context, static_cast<size_t>(args.y.numel()), kCostlyGrain, kLineElements,
           [&](size_t begin, size_t end) {
             HWY_DYNAMIC_DISPATCH(SwigluForwardRange)(args, begin, end);
           });
}

void Run(const SwigluBackwardArgs& args, Scratch, Context& context) {
  RequireActivation("swiglu", args.g.dtype);
  ForRange(context, static_cast<size_t>(args.g.numel()), kCostlyGrain, kLineElements,
           [&](size_t begin, size_t end) {
             HWY_DYNAMIC_DISPATCH(SwigluBackwardRange)(args, begin, end);
           });
}

}  // namespace lora::cpu
#endif  // HWY_ONCE
