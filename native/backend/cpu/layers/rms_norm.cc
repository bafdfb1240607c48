// s    = x + addend, or x
// rstd = 1/√(mean(s²) + eps)
// y    = s·rstd·w with w = offset + weight
// dx   = g_sum + rstd·(g·w − x·c) with c = rstd²·mean(g·w·x)
//
// Rows are split over the threads, and vector loops cover one row, one loop after the other, so
// that a sum has the bits of an addition of its own. A row is read again from cache. w is read as
// f32, from scratch where it is bf16 or has an offset. A sum over a row is four vectors of f32
// chains.
#include <algorithm>
#include <cmath>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/arena.h"
#include "backend/cpu/runtime/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/layers/rms_norm.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/simd/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
namespace {

template <class T>
struct Squares {
  const T* x;
  HWY_INLINE VF Add(VF sum, size_t i) const {
    const VF v = ReadVec(x + i);
    return hn::MulAdd(v, v, sum);
  }
  HWY_INLINE VF AddPart(VF sum, size_t i, size_t n) const {
    const VF v = ReadPart(x + i, n);
    return hn::MulAdd(v, v, sum);
  }
};

template <class X, class Y>
struct Products {  // g·w·x
  const Y* g;
  const X* x;
  const float* w;
  HWY_INLINE VF Add(VF sum, size_t i) const {
    return hn::MulAdd(hn::Mul(ReadVec(g + i), ReadVec(w + i)), ReadVec(x + i), sum);
  }
  HWY_INLINE VF AddPart(VF sum, size_t i, size_t n) const {
    return hn::MulAdd(hn::Mul(ReadPart(g + i, n), ReadPart(w + i, n)), ReadPart(x + i, n), sum);
  }
};

struct Plus {
  HWY_INLINE VF operator()(DF, VF a, VF b) const { return hn::Add(a, b); }
};

struct Copy {
  HWY_INLINE VF operator()(DF, VF x) const { return x; }
};

struct Normalize {
  float rstd;
  HWY_INLINE VF operator()(DF d, VF x, VF w) const {
    return hn::Mul(hn::Mul(x, hn::Set(d, rstd)), w);
  }
};

struct NormalizeGradient {
  float rstd, c;
  HWY_INLINE VF operator()(DF d, VF x, VF g, VF w) const {
    return hn::Mul(hn::Set(d, rstd), hn::NegMulAdd(x, hn::Set(d, c), hn::Mul(g, w)));
  }
};

template <class X, class Y>
void ForwardRows(const RmsNormForwardArgs& args, const float* w, size_t begin, size_t end) {
  const size_t width = static_cast<size_t>(args.x.dim(1));
  for (size_t row = begin; row < end; ++row) {
    const X* x = args.x.as<const X>() + row * width;
    if (args.addend) {
      X* sum = args.sum.as<X>() + row * width;
      Map(Plus(), width, sum, x, args.addend.as<const Y>() + row * width);
      x = sum;
    }
    const double mean =
        SumVectors(width, Squares<X>{x}) / static_cast<double>(std::max<size_t>(width, 1));
    const float rstd = static_cast<float>(1 / std::sqrt(mean + static_cast<double>(args.eps)));
    Map(Normalize{rstd}, width, args.y.as<Y>() + row * width, x, w);
    if (args.rstd) args.rstd.as<float>()[row] = rstd;
  }
}

template <class X, class Y>
void BackwardRows(const RmsNormBackwardArgs& args, const float* w, size_t begin, size_t end) {
  const size_t width = static_cast<size_t>(args.x.dim(1));
  for (size_t row = begin; row < end; ++row) {
    const X* x = args.x.as<const X>() + row * width;
    const Y* g = args.g.as<const Y>() + row * width;
    const float rstd = args.rstd.as<const float>()[row];
    const float mean = SumVectors(width, Products<X, Y>{g, x, w}) / static_cast<float>(width);
    X* dx = args.dx.as<X>() + row * width;
    Map(NormalizeGradient{rstd, rstd * rstd * mean}, width, dx, x, g, w);
    if (args.g_sum) Map(Plus(), width, dx, dx, args.g_sum.as<const X>() + row * width);
    if (args.d_addend) Map(Copy(), width, args.d_addend.as<Y>() + row * width, dx);
    if (args.y) Map(Normalize{rstd}, width, args.y.as<Y>() + row * width, x, w);
  }
}

// Calls f<X, Y>() for the dtypes of x and y.
template <class F>
void ForTypes(DType x, DType y, const F& f) {
  if (y != DType::kBF16) return f.template operator()<float, float>();
  if (x != DType::kBF16) return f.template operator()<float, hwy::bfloat16_t>();
  f.template operator()<hwy::bfloat16_t, hwy::bfloat16_t>();
}

}  // namespace

void RmsNormForwardRows(const RmsNormForwardArgs& args, const float* w, size_t begin, size_t end) {
  ForTypes(args.x.dtype, args.y.dtype,
           [&]<class X, class Y>() { ForwardRows<X, Y>(args, w, begin, end); });
}

void RmsNormBackwardRows(const RmsNormBackwardArgs& args, const float* w, size_t begin,
                         size_t end) {
  ForTypes(args.x.dtype, args.g.dtype,
           [&]<class X, class Y>() { BackwardRows<X, Y>(args, w, begin, end); });
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(RmsNormForwardRows);
HWY_EXPORT(RmsNormBackwardRows);

namespace {

template <class Args>
const float* WeightOf(const Args& args, Arena& arena) {
  if (args.offset == 0) return RowAsF32(args.weight, arena);
  const size_t n = static_cast<size_t>(args.weight.numel());
  float* w = arena.Take<float>(n);
  if (w == nullptr) return w;
  ConvertToF32(args.weight.data, args.weight.dtype, n, w);
  for (size_t i = 0; i < n; ++i) w[i] += args.offset;
  return w;
}

template <class Args>
size_t WeightBytes(const Args& args) {
  Arena arena;
  WeightOf(args, arena);
  return arena.bytes();
}

}  // namespace

size_t ScratchBytes(const RmsNormForwardArgs& args, int) { return WeightBytes(args); }

void Run(const RmsNormForwardArgs& args, Scratch scratch, Context& context) {
  RequireActivation("rms_norm", args.x.dtype);
  RequireActivation("rms_norm", args.y.dtype);
  const size_t rows = static_cast<size_t>(args.x.dim(0)),
               width = static_cast<size_t>(args.x.dim(1));
  Arena arena(scratch);
  const float* w = WeightOf(args, arena);
  ForRows(context, rows, width, kCheapGrain, [&](size_t begin, size_t end) {
    HWY_DYNAMIC_DISPATCH(RmsNormForwardRows)(args, w, begin, end);
  });
}

size_t ScratchBytes(const RmsNormBackwardArgs& args, int) { return WeightBytes(args); }

void Run(const RmsNormBackwardArgs& args, Scratch scratch, Context& context) {
  RequireActivation("rms_norm", args.x.dtype);
  RequireActivation("rms_norm", args.g.dtype);
  const size_t rows = static_cast<size_t>(args.x.dim(0)),
               width = static_cast<size_t>(args.x.dim(1));
  Arena arena(scratch);
  const float* w = WeightOf(args, arena);
  ForRows(context, rows, width, kCheapGrain, [&](size_t begin, size_t end) {
    HWY_DYNAMIC_DISPATCH(RmsNormBackwardRows)(args, w, begin, end);
  });
}

template PlannedCall Plan(const RmsNormForwardArgs&, int);
template PlannedCall Plan(const RmsNormBackwardArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
