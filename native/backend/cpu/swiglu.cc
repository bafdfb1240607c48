// With s = σ(gate):
//   y     = gate·s·up
//   dup   = g·gate·s
//   dgate = g·up·s·(1 + gate·(1 − s))
#include <type_traits>

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

// How many vectors are computed side by side, one step of each after the other. More than 8 have no
// room in the registers.
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
constexpr size_t kTogether = 8;
#else
constexpr size_t kTogether = 4;
#endif

template <size_t kCount>
struct Swiglu {
  VF32 y[kCount];
  HWY_INLINE Swiglu(F32 d, const VF32 (&gate)[kCount], const VF32 (&up)[kCount]) {
    const SigmoidParts<kCount> sigmoid(d, gate);
    HWY_UNROLL(8)
    for (size_t i = 0; i < kCount; ++i) {
      y[i] = hn::Mul(hn::Mul(sigmoid.x[i], up[i]), sigmoid.s[i]);
    }
  }
};

template <size_t kCount>
struct SwigluGradients {
  VF32 gate[kCount], up[kCount];
  HWY_INLINE SwigluGradients(F32 d, const VF32 (&x)[kCount], const VF32 (&u)[kCount],
                             const VF32 (&g)[kCount]) {
    const SigmoidParts<kCount> sigmoid(d, x);
    HWY_UNROLL(8)
    for (size_t i = 0; i < kCount; ++i) {
      const VF32 gs = hn::Mul(g[i], sigmoid.s[i]);
      up[i] = hn::Mul(gs, sigmoid.x[i]);
      gate[i] =
          hn::Mul(hn::Mul(gs, u[i]), hn::MulAdd(sigmoid.x[i], sigmoid.c[i], hn::Set(d, 1.0f)));
    }
  }
};

template <class T>
void Forward(const SwigluForwardArgs& args, size_t begin, size_t end) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  const T *gate = args.gate.as<const T>(), *up = args.up.as<const T>();
  T* const y = args.y.as<T>();
  size_t i = begin;
  const auto whole = [&](auto count) HWY_ATTR {
    VF32 x[count()], u[count()];
    ReadSeveral(d, gate + i, x);
    ReadSeveral(d, up + i, u);
    WriteSeveral(d, Swiglu<count()>(d, x, u).y, y + i);
    i += count() * lanes;
  };
  while (i + kTogether * lanes <= end) whole(std::integral_constant<size_t, kTogether>());
  while (i + lanes <= end) whole(std::integral_constant<size_t, 1>());
  if (i == end) return;
  const size_t n = end - i;
  WritePart(d, Swiglu<1>(d, {ReadPart(d, gate + i, n)}, {ReadPart(d, up + i, n)}).y[0], y + i, n);
}

template <class T>
void Backward(const SwigluBackwardArgs& args, size_t begin, size_t end) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  const T *gate = args.gate.as<const T>(), *up = args.up.as<const T>(), *g = args.g.as<const T>();
  T *dgate = args.dgate.as<T>(), *dup = args.dup.as<T>();
  size_t i = begin;
  const auto whole = [&](auto count) HWY_ATTR {
    VF32 x[count()], u[count()], v[count()];
    ReadSeveral(d, gate + i, x);
    ReadSeveral(d, up + i, u);
    ReadSeveral(d, g + i, v);
    const SwigluGradients<count()> out(d, x, u, v);
    WriteSeveral(d, out.gate, dgate + i);
    WriteSeveral(d, out.up, dup + i);
    i += count() * lanes;
  };
  while (i + kTogether * lanes <= end) whole(std::integral_constant<size_t, kTogether>());
  while (i + lanes <= end) whole(std::integral_constant<size_t, 1>());
  if (i == end) return;
  const size_t n = end - i;
  const SwigluGradients<1> out(d, {ReadPart(d, gate + i, n)}, {ReadPart(d, up + i, n)},
                               {ReadPart(d, g + i, n)});
  WritePart(d, out.gate[0], dgate + i, n);
  WritePart(d, out.up[0], dup + i, n);
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
