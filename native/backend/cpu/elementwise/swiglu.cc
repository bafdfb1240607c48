// With s = σ(gate):
//   y     = gate·s·up
//   dup   = g·gate·s
//   dgate = g·up·s·(1 + gate·(1 − s))
#include <type_traits>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/elementwise/swiglu.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/simd/math-inl.h"
#include "backend/cpu/simd/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
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
  VF y[kCount];
  HWY_INLINE Swiglu(const VF (&gate)[kCount], const VF (&up)[kCount]) {
    const SigmoidParts<kCount> sigmoid(gate);
    HWY_UNROLL(8)
    for (size_t i = 0; i < kCount; ++i) {
      y[i] = hn::Mul(hn::Mul(sigmoid.x[i], up[i]), sigmoid.s[i]);
    }
  }
};

// y is computed where kOutput is set.
template <size_t kCount, bool kOutput>
struct SwigluGradients {
  VF gate[kCount], up[kCount], y[kCount];
  HWY_INLINE SwigluGradients(const VF (&x)[kCount], const VF (&u)[kCount], const VF (&g)[kCount]) {
    const SigmoidParts<kCount> sigmoid(x);
    HWY_UNROLL(8)
    for (size_t i = 0; i < kCount; ++i) {
      if constexpr (kOutput) y[i] = hn::Mul(hn::Mul(sigmoid.x[i], u[i]), sigmoid.s[i]);
      const VF gs = hn::Mul(g[i], sigmoid.s[i]);
      up[i] = hn::Mul(gs, sigmoid.x[i]);
      gate[i] =
          hn::Mul(hn::Mul(gs, u[i]), hn::MulAdd(sigmoid.x[i], sigmoid.c[i], hn::Set(DF(), 1.0f)));
    }
  }
};

template <class T>
void Forward(const SwigluForwardArgs& args, size_t begin, size_t end) {
  const T *gate = args.gate.as<const T>(), *up = args.up.as<const T>();
  T* const y = args.y.as<T>();
  size_t i = begin;
  const auto whole = [&](auto count) HWY_ATTR {
    VF x[count()], u[count()];
    ReadSeveral(gate + i, x);
    ReadSeveral(up + i, u);
    WriteSeveral(Swiglu<count()>(x, u).y, y + i);
    i += count() * kLanes;
  };
  while (i + kTogether * kLanes <= end) whole(std::integral_constant<size_t, kTogether>());
  while (i + kLanes <= end) whole(std::integral_constant<size_t, 1>());
  if (i == end) return;
  const size_t n = end - i;
  WritePart(Swiglu<1>({ReadPart(gate + i, n)}, {ReadPart(up + i, n)}).y[0], y + i, n);
}

template <class T, bool kOutput>
void Backward(const SwigluBackwardArgs& args, size_t begin, size_t end) {
  const T *gate = args.gate.as<const T>(), *up = args.up.as<const T>(), *g = args.g.as<const T>();
  T *dgate = args.dgate.as<T>(), *dup = args.dup.as<T>(), *y = args.y.as<T>();
  size_t i = begin;
  const auto whole = [&](auto count) HWY_ATTR {
    VF x[count()], u[count()], v[count()];
    ReadSeveral(gate + i, x);
    ReadSeveral(up + i, u);
    ReadSeveral(g + i, v);
    const SwigluGradients<count(), kOutput> out(x, u, v);
    WriteSeveral(out.gate, dgate + i);
    WriteSeveral(out.up, dup + i);
    if constexpr (kOutput) WriteSeveral(out.y, y + i);
    i += count() * kLanes;
  };
  while (i + kTogether * kLanes <= end) whole(std::integral_constant<size_t, kTogether>());
  while (i + kLanes <= end) whole(std::integral_constant<size_t, 1>());
  if (i == end) return;
  const size_t n = end - i;
  const SwigluGradients<1, kOutput> out({ReadPart(gate + i, n)}, {ReadPart(up + i, n)},
                                        {ReadPart(g + i, n)});
  WritePart(out.gate[0], dgate + i, n);
  WritePart(out.up[0], dup + i, n);
  if constexpr (kOutput) WritePart(out.y[0], y + i, n);
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
  const auto run = [&]<class T>() {
    if (args.y) {
      Backward<T, true>(args, begin, end);
    } else {
      Backward<T, false>(args, begin, end);
    }
  };
  if (args.g.dtype == DType::kBF16) {
    run.template operator()<hwy::bfloat16_t>();
  } else {
    run.template operator()<float>();
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
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

template PlannedCall Plan(const SwigluForwardArgs&, int);
template PlannedCall Plan(const SwigluBackwardArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
