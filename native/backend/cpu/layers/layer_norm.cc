// mean = Σ x/d,  rstd = 1/√(Σ (x − mean)²/d + eps),  n = (x − mean)·rstd
// y  = n·w + b
// dx = rstd·(g·w − s − n·c) with s = mean(g·w) and c = mean(g·w·n)
//
// Rows are split over the threads, and vector loops cover one row, which is read again from cache.
// w and b are read as f32, from scratch where they are bf16.
#include <algorithm>
#include <cmath>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/layers/layer_norm.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/simd/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
namespace {

template <class T>
struct Values {
  const T* x;
  HWY_INLINE VF Add(VF sum, size_t i) const { return hn::Add(sum, ReadVec(x + i)); }
  HWY_INLINE VF AddPart(VF sum, size_t i, size_t n) const {
    return hn::Add(sum, ReadPart(x + i, n));
  }
};

template <class T>
struct SquaredDeviations {
  const T* x;
  float mean;
  HWY_INLINE VF Add(VF sum, size_t i) const {
    const VF v = hn::Sub(ReadVec(x + i), hn::Set(DF(), mean));
    return hn::MulAdd(v, v, sum);
  }
  HWY_INLINE VF AddPart(VF sum, size_t i, size_t n) const {
    const VF v =
        hn::IfThenElseZero(hn::FirstN(DF(), n), hn::Sub(ReadPart(x + i, n), hn::Set(DF(), mean)));
    return hn::MulAdd(v, v, sum);
  }
};

template <class T>
struct WeightedGradients {  // g·w
  const T* g;
  const float* w;
  HWY_INLINE VF Add(VF sum, size_t i) const {
    return hn::MulAdd(ReadVec(g + i), ReadVec(w + i), sum);
  }
  HWY_INLINE VF AddPart(VF sum, size_t i, size_t n) const {
    return hn::MulAdd(ReadPart(g + i, n), ReadPart(w + i, n), sum);
  }
};

template <class T>
struct AlongDeviations {  // g·w·(x − mean)
  const T *g, *x;
  const float* w;
  float mean;
  HWY_INLINE VF Add(VF sum, size_t i) const {
    return hn::MulAdd(hn::Mul(ReadVec(g + i), ReadVec(w + i)),
                      hn::Sub(ReadVec(x + i), hn::Set(DF(), mean)), sum);
  }
  HWY_INLINE VF AddPart(VF sum, size_t i, size_t n) const {
    return hn::MulAdd(hn::Mul(ReadPart(g + i, n), ReadPart(w + i, n)),
                      hn::Sub(ReadPart(x + i, n), hn::Set(DF(), mean)), sum);
  }
};

struct NormalizeRow {
  float mean, rstd;
  HWY_INLINE VF operator()(DF d, VF x, VF w, VF b) const {
    return hn::MulAdd(hn::Mul(hn::Sub(x, hn::Set(d, mean)), hn::Set(d, rstd)), w, b);
  }
};

struct NormalizeRowGradient {
  float mean, rstd, sum, along;  // along: of a deviation, not of n
  HWY_INLINE VF operator()(DF d, VF x, VF g, VF w) const {
    const VF rest = hn::Sub(hn::Mul(g, w), hn::Set(d, sum));
    const VF deviation = hn::Sub(x, hn::Set(d, mean));
    return hn::Mul(hn::Set(d, rstd), hn::NegMulAdd(deviation, hn::Set(d, along), rest));
  }
};

template <class T>
void ForwardRows(const LayerNormForwardArgs& args, const float* w, const float* b, size_t begin,
                 size_t end) {
  const size_t width = static_cast<size_t>(args.x.dim(1));
  const auto count = static_cast<double>(std::max<size_t>(width, 1));
  for (size_t row = begin; row < end; ++row) {
    const T* x = args.x.as<const T>() + row * width;
    const float mean = static_cast<float>(SumVectors(width, Values<T>{x}) / count);
    const double variance = SumVectors(width, SquaredDeviations<T>{x, mean}) / count;
    const float rstd = static_cast<float>(1 / std::sqrt(variance + static_cast<double>(args.eps)));
    Map(NormalizeRow{mean, rstd}, width, args.y.as<T>() + row * width, x, w, b);
    if (args.mean) args.mean.as<float>()[row] = mean;
    if (args.rstd) args.rstd.as<float>()[row] = rstd;
  }
}

template <class T>
void BackwardRows(const LayerNormBackwardArgs& args, const float* w, size_t begin, size_t end) {
  const size_t width = static_cast<size_t>(args.x.dim(1));
  const auto count = static_cast<float>(width);
  for (size_t row = begin; row < end; ++row) {
    const T* x = args.x.as<const T>() + row * width;
    const T* g = args.g.as<const T>() + row * width;
    const float mean = args.mean.as<const float>()[row], rstd = args.rstd.as<const float>()[row];
    const float sum = SumVectors(width, WeightedGradients<T>{g, w}) / count;
    const float along = SumVectors(width, AlongDeviations<T>{g, x, w, mean}) / count * rstd * rstd;
    Map(NormalizeRowGradient{mean, rstd, sum, along}, width, args.dx.as<T>() + row * width, x, g,
        w);
  }
}

}  // namespace

void LayerNormForwardRows(const LayerNormForwardArgs& args, const float* w, const float* b,
                          size_t begin, size_t end) {
  if (args.x.dtype == DType::kBF16) return ForwardRows<hwy::bfloat16_t>(args, w, b, begin, end);
  ForwardRows<float>(args, w, b, begin, end);
}

void LayerNormBackwardRows(const LayerNormBackwardArgs& args, const float* w, size_t begin,
                           size_t end) {
  if (args.x.dtype == DType::kBF16) return BackwardRows<hwy::bfloat16_t>(args, w, begin, end);
  BackwardRows<float>(args, w, begin, end);
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(LayerNormForwardRows);
HWY_EXPORT(LayerNormBackwardRows);

size_t ScratchBytes(const LayerNormForwardArgs& args, int) {
  return RowBytes(args.weight) + RowBytes(args.bias);
}

void Run(const LayerNormForwardArgs& args, Scratch scratch, Context& context) {
  RequireActivation("layer_norm", args.x.dtype);
  Arena arena(scratch);
  const float *w = RowAsF32(args.weight, arena), *b = RowAsF32(args.bias, arena);
  ForRows(context, static_cast<size_t>(args.x.dim(0)), static_cast<size_t>(args.x.dim(1)),
          kCheapGrain, [&](size_t begin, size_t end) {
            HWY_DYNAMIC_DISPATCH(LayerNormForwardRows)(args, w, b, begin, end);
          });
}

size_t ScratchBytes(const LayerNormBackwardArgs& args, int) { return RowBytes(args.weight); }

void Run(const LayerNormBackwardArgs& args, Scratch scratch, Context& context) {
  RequireActivation("layer_norm", args.x.dtype);
  Arena arena(scratch);
  const float* w = RowAsF32(args.weight, arena);
  ForRows(context, static_cast<size_t>(args.x.dim(0)), static_cast<size_t>(args.x.dim(1)),
          kCheapGrain, [&](size_t begin, size_t end) {
            HWY_DYNAMIC_DISPATCH(LayerNormBackwardRows)(args, w, begin, end);
          });
}

template PlannedCall Plan(const LayerNormForwardArgs&, int);
template PlannedCall Plan(const LayerNormBackwardArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
