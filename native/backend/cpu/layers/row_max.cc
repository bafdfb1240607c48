// max = the largest element of a row, log_sum = ln Σ exp(x − max).
//
// A row is read block by block for its maximum, then for the exponentials. Only the block that
// holds the maximum, or the first NaN, is searched for its place.
#include <algorithm>
#include <cmath>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/layers/row_max.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/simd/math-inl.h"
#include "backend/cpu/simd/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
namespace {

// Returns the largest of n >= 1 elements, or NaN where there is one.
float LargestOf(const float* x, size_t n) {
  const DF d;
  const VF first = hn::Set(d, *x);
  VF largest = first, sum = hn::Zero(d);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const VF v = hn::LoadU(d, x + i);
    largest = hn::Max(largest, v);
    sum = hn::Add(sum, hn::Sub(v, v));  // 0, or NaN of a NaN or of an infinity
  }
  if (i < n) {
    const VF v = hn::IfThenElse(hn::FirstN(d, n - i), hn::LoadN(d, x + i, n - i), first);
    largest = hn::Max(largest, v);
    sum = hn::Add(sum, hn::Sub(v, v));
  }
  if (!hn::AllFalse(d, hn::IsNaN(sum))) {
    for (i = 0; i < n; ++i)
      if (std::isnan(x[i])) return x[i];
  }
  return hn::ReduceMax(d, largest);
}

struct ExponentialsFrom {
  const float* x;
  float max;
  HWY_INLINE VF Add(VF sum, size_t i) const {
    return hn::Add(sum, Exp(hn::Sub(ReadVec(x + i), hn::Set(DF(), max))));
  }
  HWY_INLINE VF AddPart(VF sum, size_t i, size_t n) const {
    const VF e = Exp(hn::Sub(ReadPart(x + i, n), hn::Set(DF(), max)));
    return hn::Add(sum, hn::IfThenElseZero(hn::FirstN(DF(), n), e));
  }
};

}  // namespace

void RowMaxRows(const RowMaxArgs& args, size_t begin, size_t end) {
  HWY_ALIGN float buffer[kBlock];
  const size_t width = static_cast<size_t>(args.x.dim(1));
  const auto block = [&](size_t row, size_t i, size_t n) {
    return ReadBlock(args.x.data, args.x.dtype, row * width + i, n, buffer);
  };
  for (size_t row = begin; row < end; ++row) {
    float max = -HUGE_VALF;
    size_t place = 0;  // of the first block with the maximum
    for (size_t i = 0; i < width && !std::isnan(max); i += kBlock) {
      const size_t n = std::min(kBlock, width - i);
      const float largest = LargestOf(block(row, i, n), n);
      if (!(largest > max) && !std::isnan(largest)) continue;
      max = largest;
      place = i;
    }
    if (args.max) args.max.as<float>()[row] = max;
    if (args.index) {
      const float* x = block(row, place, std::min(kBlock, width - place));
      size_t i = 0;
      while (std::isnan(max) ? !std::isnan(x[i]) : x[i] != max) ++i;
      args.index.as<int32_t>()[row] = static_cast<int32_t>(place + i);
    }
    if (!args.log_sum) continue;
    double sum = 0;
    for (size_t i = 0; i < width; i += kBlock) {
      const size_t n = std::min(kBlock, width - i);
      sum += static_cast<double>(SumVectors(n, ExponentialsFrom{block(row, i, n), max}));
    }
    args.log_sum.as<float>()[row] = static_cast<float>(std::log(sum));
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(RowMaxRows);

void Run(const RowMaxArgs& args, Scratch, Context& context) {
  RequireFloat("row_max", args.x.dtype);
  ForRows(context, static_cast<size_t>(args.x.dim(0)), static_cast<size_t>(args.x.dim(1)),
          kCostlyGrain,
          [&](size_t begin, size_t end) { HWY_DYNAMIC_DISPATCH(RowMaxRows)(args, begin, end); });
}

template PlannedCall Plan(const RowMaxArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
