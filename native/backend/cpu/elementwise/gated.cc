// y = f(gate)·u(up), dup = g·f(gate)·u'(up) and dgate = g·u(up)·f'(gate), by the formulas of
// core/maths/kinds.h.
#include <type_traits>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/elementwise/gated.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/simd/kinds-inl.h"
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

// The products are of one vector after the other, which takes fewer registers.
template <class Kind, size_t kCount>
HWY_INLINE Vectors<kCount> Output(const Vectors<kCount>& gate, const Vectors<kCount>& up) {
  const auto at = Kind::At(gate);
  return Vectors<kCount>::Each(
      [&](size_t i) HWY_ATTR { return hn::Mul(hn::Mul(at.z.v[i], Kind::Up(up.v[i])), at.s.v[i]); });
}

// What is not written of these is not computed.
template <class Kind, size_t kCount>
struct Gradients {
  Vectors<kCount> gate, up, y;
  HWY_INLINE Gradients(const Vectors<kCount>& x, const Vectors<kCount>& u,
                       const Vectors<kCount>& g) {
    const auto at = Kind::At(x);
    HWY_UNROLL(8)
    for (size_t i = 0; i < kCount; ++i) {
      const VF gs = hn::Mul(g.v[i], at.s.v[i]), factor = Kind::Up(u.v[i]);
      y.v[i] = hn::Mul(hn::Mul(at.z.v[i], factor), at.s.v[i]);
      up.v[i] = Kind::UpGradient(u.v[i], hn::Mul(gs, at.z.v[i]));
      gate.v[i] = hn::Mul(hn::Mul(gs, factor), at.slope.v[i]);
    }
  }
};

template <class Kind, class T>
void Forward(const GatedForwardArgs& args, size_t begin, size_t end) {
  const T *gate = args.gate.as<const T>(), *up = args.up.as<const T>();
  T* const y = args.y.as<T>();
  size_t i = begin;
  const auto whole = [&](auto count) HWY_ATTR {
    Vectors<count()> x, u;
    ReadSeveral(gate + i, x.v);
    ReadSeveral(up + i, u.v);
    WriteSeveral(Output<Kind>(x, u).v, y + i);
    i += count() * kLanes;
  };
  while (i + kTogether * kLanes <= end) whole(std::integral_constant<size_t, kTogether>());
  while (i + kLanes <= end) whole(std::integral_constant<size_t, 1>());
  if (i == end) return;
  const size_t n = end - i;
  const Vectors<1> x = ReadPart(gate + i, n), u = ReadPart(up + i, n);
  WritePart(Output<Kind>(x, u).v[0], y + i, n);
}

template <class Kind, class T, bool kOutput>
void Backward(const GatedBackwardArgs& args, size_t begin, size_t end) {
  const T *gate = args.gate.as<const T>(), *up = args.up.as<const T>(), *g = args.g.as<const T>();
  T *dgate = args.dgate.as<T>(), *dup = args.dup.as<T>(), *y = args.y.as<T>();
  size_t i = begin;
  const auto whole = [&](auto count) HWY_ATTR {
    Vectors<count()> x, u, v;
    ReadSeveral(gate + i, x.v);
    ReadSeveral(up + i, u.v);
    ReadSeveral(g + i, v.v);
    const Gradients<Kind, count()> out(x, u, v);
    WriteSeveral(out.gate.v, dgate + i);
    WriteSeveral(out.up.v, dup + i);
    if constexpr (kOutput) WriteSeveral(out.y.v, y + i);
    i += count() * kLanes;
  };
  while (i + kTogether * kLanes <= end) whole(std::integral_constant<size_t, kTogether>());
  while (i + kLanes <= end) whole(std::integral_constant<size_t, 1>());
  if (i == end) return;
  const size_t n = end - i;
  const Gradients<Kind, 1> out(ReadPart(gate + i, n), ReadPart(up + i, n), ReadPart(g + i, n));
  WritePart(out.gate.v[0], dgate + i, n);
  WritePart(out.up.v[0], dup + i, n);
  if constexpr (kOutput) WritePart(out.y.v[0], y + i, n);
}

// Calls f<kind, type of the elements>().
template <class F>
void ForTypes(GatedKind kind, DType dtype, const F& f) {
  gated::ForKind(kind, [&]<class Kind>() {
    if (dtype == DType::kBF16) {
      f.template operator()<Kind, hwy::bfloat16_t>();
    } else {
      f.template operator()<Kind, float>();
    }
  });
}

}  // namespace

void GatedForwardRange(const GatedForwardArgs& args, size_t begin, size_t end) {
  ForTypes(args.kind, args.y.dtype,
           [&]<class Kind, class T>() { Forward<Kind, T>(args, begin, end); });
}

void GatedBackwardRange(const GatedBackwardArgs& args, size_t begin, size_t end) {
  ForTypes(args.kind, args.g.dtype, [&]<class Kind, class T>() {
    if (args.y) {
      Backward<Kind, T, true>(args, begin, end);
    } else {
      Backward<Kind, T, false>(args, begin, end);
    }
  });
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(GatedForwardRange);
HWY_EXPORT(GatedBackwardRange);

void Run(const GatedForwardArgs& args, Scratch, Context& context) {
  RequireActivation("gated", args.y.dtype);
  ForRange(
      context, static_cast<size_t>(args.y.numel()), kCostlyGrain, kLineElements,
      [&](size_t begin, size_t end) { HWY_DYNAMIC_DISPATCH(GatedForwardRange)(args, begin, end); });
}

void Run(const GatedBackwardArgs& args, Scratch, Context& context) {
  RequireActivation("gated", args.g.dtype);
  ForRange(context, static_cast<size_t>(args.g.numel()), kCostlyGrain, kLineElements,
           [&](size_t begin, size_t end) {
             HWY_DYNAMIC_DISPATCH(GatedBackwardRange)(args, begin, end);
           });
}

template PlannedCall Plan(const GatedForwardArgs&, int);
template PlannedCall Plan(const GatedBackwardArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
