// Kernels for one row of logits [n]: log Σ exp, and the gradient of −log softmax. The sum reads the
// row from memory once: a block stays in the first level of cache between the search for its
// maximum and its exponentials, and the sum so far is rescaled when the maximum grows.
#if defined(LORA_CPU_CROSS_ENTROPY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_CPU_CROSS_ENTROPY_INL_H_
#undef LORA_CPU_CROSS_ENTROPY_INL_H_
#else
#define LORA_CPU_CROSS_ENTROPY_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/cross_entropy_rows.h"
#include "backend/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Adds `count` logits to the sum, and calls keep(i, e, n) with the exponentials of n logits from
// the i-th on. n is the number of lanes, but at the end. Returns the base of the exponentials.
template <class T, class Keep>
HWY_INLINE float AddBlock(const T* block, size_t count, LogSum& total, const Keep& keep) {
  constexpr float kMinusInf = -std::numeric_limits<float>::infinity();
  const F32 d;
  const size_t lanes = hn::Lanes(d), whole = count / (2 * lanes) * (2 * lanes);
  VF32 m0 = hn::Set(d, kMinusInf), m1 = m0;
  for (size_t i = 0; i < whole; i += 2 * lanes) {
    m0 = hn::Max(m0, LoadAct(d, block + i));
    m1 = hn::Max(m1, LoadAct(d, block + i + lanes));
  }
  // Reads the rest of a block, at most two vectors; lanes past its end read −inf.
  const auto rest = [&](size_t i) HWY_ATTR {
    const VF32 v = LoadActN(d, block + i, count - i);
    return hn::IfThenElse(hn::FirstN(d, count - i), v, hn::Set(d, kMinusInf));
  };
  for (size_t i = whole; i < count; i += lanes) m0 = hn::Max(m0, rest(i));
  const float new_max = std::max(total.max, hn::ReduceMax(d, hn::Max(m0, m1)));
  const float base = new_max == kMinusInf ? 0.0f : new_max;
  const VF32 vbase = hn::Set(d, base);
  VF32 s0 = hn::Zero(d), s1 = s0;
  for (size_t i = 0; i < whole; i += 2 * lanes) {
    const VF32 e0 = Exp(d, hn::Sub(LoadAct(d, block + i), vbase));
    const VF32 e1 = Exp(d, hn::Sub(LoadAct(d, block + i + lanes), vbase));
    s0 = hn::Add(s0, e0);
    s1 = hn::Add(s1, e1);
    keep(i, e0, lanes);
    keep(i + lanes, e1, lanes);
  }
  for (size_t i = whole; i < count; i += lanes) {
    const VF32 e = Exp(d, hn::Sub(rest(i), vbase));
    s0 = hn::Add(s0, e);
    keep(i, e, std::min(lanes, count - i));
  }
  if (new_max != total.max) total.sum *= std::exp(static_cast<double>(total.max) - base);
  total.sum += static_cast<double>(hn::ReduceSum(d, hn::Add(s0, s1)));
  total.max = new_max;
  return base;
}

template <class T>
HWY_INLINE void RowLogSum(const T* HWY_RESTRICT logits, size_t n, LogSum& total) {
  for (size_t begin = 0; begin < n; begin += kExpBlock) {
    AddBlock(logits + begin, std::min(kExpBlock, n - begin), total, [](size_t, VF32, size_t) {});
  }
}

template <class T>
HWY_INLINE float RowExponentials(const float* HWY_RESTRICT logits, size_t n, LogSum& total,
                                 T* HWY_RESTRICT exponentials) {
  const F32 d;
  return AddBlock(logits, n, total, [&](size_t i, VF32 e, size_t count) HWY_ATTR {
    if (count == hn::Lanes(d)) {
      StoreAct(d, e, exponentials + i);
    } else {
      StoreActN(d, e, exponentials + i, count);
    }
  });
}

template <class T>
HWY_INLINE void RowScaled(const T* HWY_RESTRICT src, size_t n, float factor, T* HWY_RESTRICT dst) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  const VF32 f = hn::Set(d, factor);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) StoreAct(d, hn::Mul(f, LoadAct(d, src + i)), dst + i);
  if (i < n) StoreActN(d, hn::Mul(f, LoadActN(d, src + i, n - i)), dst + i, n - i);
}

// `gradient` may be `logits`, because an element is read before it is written.
template <class T>
HWY_INLINE void RowSoftmaxGradient(const T* logits, size_t n, float lse, size_t label, float g,
                                   T* gradient) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  const VF32 vl = hn::Set(d, lse), vg = hn::Set(d, g);
  const auto at = [&](VF32 x) { return hn::Mul(vg, Exp(d, hn::Sub(x, vl))); };
  // The vector with the label is computed before anything is overwritten, and stored last.
  const size_t label_begin = label / lanes * lanes;
  const size_t label_count = label < n ? std::min(lanes, n - label_begin) : 0;
  VF32 labelled = hn::Zero(d);
  if (label_count > 0) {
    const VF32 p = Exp(d, hn::Sub(LoadActN(d, logits + label_begin, label_count), vl));
    const auto one = hn::Eq(hn::Iota(d, 0), hn::Set(d, static_cast<float>(label - label_begin)));
    labelled = hn::Mul(vg, hn::Sub(p, hn::IfThenElseZero(one, hn::Set(d, 1.0f))));
  }
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) StoreAct(d, at(LoadAct(d, logits + i)), gradient + i);
  if (i < n) StoreActN(d, at(LoadActN(d, logits + i, n - i)), gradient + i, n - i);
  if (label_count > 0) StoreActN(d, labelled, gradient + label_begin, label_count);
}

}  // namespace HWY_NAMESPACE
}  // namespace lora::cpu
HWY_AFTER_NAMESPACE();

#endif  // toggle
