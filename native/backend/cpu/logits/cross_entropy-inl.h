// Kernels for one row of logits [n]: log Σ exp, the entropy, and the gradient of −log softmax.
// The sum reads the row from memory once: a block stays in the first level of cache between the
// search for its maximum and its exponentials, and the sum so far is rescaled when the maximum
// grows.
#if defined(LORA_BACKEND_CPU_LOGITS_CROSS_ENTROPY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_LOGITS_CROSS_ENTROPY_INL_H_
#undef LORA_BACKEND_CPU_LOGITS_CROSS_ENTROPY_INL_H_
#else
#define LORA_BACKEND_CPU_LOGITS_CROSS_ENTROPY_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/logits/cross_entropy_rows.h"
#include "backend/cpu/simd/bf16-inl.h"
#include "backend/cpu/simd/kinds-inl.h"
#include "backend/cpu/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// Adds `count` logits to the sum, and calls keep(i, e, n) with the exponentials of n logits from
// the i-th on. n is the number of lanes, but at the end. Returns the base of the exponentials.
template <class T, class Keep>
HWY_INLINE float AddBlock(const T* block, size_t count, LogSum& total, const Keep& keep) {
  constexpr float kMinusInf = -std::numeric_limits<float>::infinity();
  const DF d;
  const size_t whole = count / (2 * kLanes) * (2 * kLanes);
  VF m0 = hn::Set(d, kMinusInf), m1 = m0;
  for (size_t i = 0; i < whole; i += 2 * kLanes) {
    m0 = hn::Max(m0, ReadVec(block + i));
    m1 = hn::Max(m1, ReadVec(block + i + kLanes));
  }
  // Reads the rest of a block, at most two vectors; lanes past its end read −inf.
  const auto rest = [&](size_t i) HWY_ATTR {
    const VF v = ReadPart(block + i, count - i);
    return hn::IfThenElse(hn::FirstN(d, count - i), v, hn::Set(d, kMinusInf));
  };
  for (size_t i = whole; i < count; i += kLanes) m0 = hn::Max(m0, rest(i));
  const float new_max = std::max(total.max, hn::ReduceMax(d, hn::Max(m0, m1)));
  const float base = new_max == kMinusInf ? 0.0f : new_max;
  const VF vbase = hn::Set(d, base);
  VF s0 = hn::Zero(d), s1 = s0;
  for (size_t i = 0; i < whole; i += 2 * kLanes) {
    const VF e0 = Exp(hn::Sub(ReadVec(block + i), vbase));
    const VF e1 = Exp(hn::Sub(ReadVec(block + i + kLanes), vbase));
    s0 = hn::Add(s0, e0);
    s1 = hn::Add(s1, e1);
    keep(i, e0, kLanes);
    keep(i + kLanes, e1, kLanes);
  }
  for (size_t i = whole; i < count; i += kLanes) {
    const VF e = Exp(hn::Sub(rest(i), vbase));
    s0 = hn::Add(s0, e);
    keep(i, e, std::min(kLanes, count - i));
  }
  if (new_max != total.max) total.sum *= std::exp(static_cast<double>(total.max) - base);
  total.sum += static_cast<double>(hn::ReduceSum(d, hn::Add(s0, s1)));
  total.max = new_max;
  return base;
}

template <class T>
HWY_INLINE void RowLogSum(const T* HWY_RESTRICT logits, size_t n, LogSum& total) {
  for (size_t begin = 0; begin < n; begin += kExpBlock) {
    AddBlock(logits + begin, std::min(kExpBlock, n - begin), total, [](size_t, VF, size_t) {});
  }
}

template <class T>
HWY_INLINE float RowExponentials(const float* HWY_RESTRICT logits, size_t n, LogSum& total,
                                 T* HWY_RESTRICT exponentials) {
  return AddBlock(logits, n, total, [&](size_t i, VF e, size_t count) HWY_ATTR {
    if (count == kLanes) {
      WriteVecFast(e, exponentials + i);
    } else {
      WritePartFast(e, exponentials + i, count);
    }
  });
}

template <class T>
HWY_INLINE void AddEntropyBlock(const T* block, size_t count, EntropySum& total) {
  constexpr float kMinusInf = -std::numeric_limits<float>::infinity();
  const DF d;
  // Lanes past the end read −∞, which adds nothing.
  const auto at = [&](size_t i) HWY_ATTR {
    if (i + kLanes <= count) return ReadVec(block + i);
    const VF v = ReadPart(block + i, count - i);
    return hn::IfThenElse(hn::FirstN(d, count - i), v, hn::Set(d, kMinusInf));
  };
  VF largest = hn::Set(d, total.max);
  for (size_t i = 0; i < count; i += kLanes) largest = hn::Max(largest, at(i));
  const float max = hn::ReduceMax(d, largest);
  const VF base = hn::Set(d, max == kMinusInf ? 0.0f : max),
           lowest = hn::Set(d, -200.0f);  // exp(−200) is 0
  VF sum = hn::Zero(d), weighted = sum;
  for (size_t i = 0; i < count; i += kLanes) {
    const VF x = hn::Sub(at(i), base), e = Exp(x);
    sum = hn::Add(sum, e);
    weighted = hn::MulAdd(e, hn::Max(x, lowest), weighted);
  }
  if (max != total.max && total.sum > 0) {
    const double step = static_cast<double>(total.max) - max, factor = std::exp(step);
    total.weighted = factor * (total.weighted + total.sum * step);
    total.sum *= factor;
  }
  total.sum += static_cast<double>(hn::ReduceSum(d, sum));
  total.weighted += static_cast<double>(hn::ReduceSum(d, weighted));
  total.max = max;
}

template <class T>
HWY_INLINE void RowEntropy(const T* HWY_RESTRICT logits, size_t n, EntropySum& total) {
  for (size_t begin = 0; begin < n; begin += kExpBlock)
    AddEntropyBlock(logits + begin, std::min(kExpBlock, n - begin), total);
}

// `dst` may be `src`, because an element is read before it is written.
template <class T>
HWY_INLINE void RowScaled(const T* src, size_t n, float factor, T* dst) {
  const DF d;
  const VF f = hn::Set(d, factor);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) WriteVecFast(hn::Mul(f, ReadVec(src + i)), dst + i);
  if (i < n) WritePartFast(hn::Mul(f, ReadPart(src + i, n - i)), dst + i, n - i);
}

HWY_INLINE void RowCapped(float* logits, size_t n, float cap) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    WriteVecFast(unary::Softcap::Value(ReadVec(logits + i), cap), logits + i);
  if (i < n)
    WritePartFast(unary::Softcap::Value(ReadPart(logits + i, n - i), cap), logits + i, n - i);
}

template <class T>
HWY_INLINE void RowTimesCapSlopes(const float* logits, size_t n, float cap, T* values) {
  const VF one = Of(1), inverse = Of(1 / cap);
  const auto slope = [&](VF logit) HWY_ATTR {
    const VF part = hn::Mul(logit, inverse);
    return hn::NegMulAdd(part, part, one);
  };
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    WriteVecFast(hn::Mul(ReadVec(values + i), slope(ReadVec(logits + i))), values + i);
  if (i < n)
    WritePartFast(hn::Mul(ReadPart(values + i, n - i), slope(ReadPart(logits + i, n - i))),
                  values + i, n - i);
}

// `gradient` may be `logits`, because an element is read before it is written.
template <class T>
HWY_INLINE void RowSoftmaxGradient(const T* logits, size_t n, float lse, size_t label, float g,
                                   T* gradient) {
  const DF d;
  const VF vl = hn::Set(d, lse), vg = hn::Set(d, g);
  const auto at = [&](VF x) { return hn::Mul(vg, Exp(hn::Sub(x, vl))); };
  // The vector with the label is computed before anything is overwritten, and stored last.
  const size_t label_begin = label / kLanes * kLanes;
  const size_t label_count = label < n ? std::min(kLanes, n - label_begin) : 0;
  VF labeled = hn::Zero(d);
  if (label_count > 0) {
    const VF p = Exp(hn::Sub(ReadPart(logits + label_begin, label_count), vl));
    const auto one = hn::Eq(hn::Iota(d, 0), hn::Set(d, static_cast<float>(label - label_begin)));
    labeled = hn::Mul(vg, hn::Sub(p, hn::IfThenElseZero(one, hn::Set(d, 1.0f))));
  }
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) WriteVecFast(at(ReadVec(logits + i)), gradient + i);
  if (i < n) WritePartFast(at(ReadPart(logits + i, n - i)), gradient + i, n - i);
  if (label_count > 0) WritePartFast(labeled, gradient + label_begin, label_count);
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
