// Moves vectors of f32 from and to memory of any float dtype, and loops over blocks of them.
//
// Arithmetic is f32 with one rounding, at the store. A kernel for every mix of dtypes would
// multiply the kernels, so elementwise ops work on blocks of kBlock f32 elements that stay in L1:
// f32 operands are used in place, others pass through a buffer on the stack.
#if defined(LORA_CPU_VECTOR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_CPU_VECTOR_INL_H_
#undef LORA_CPU_VECTOR_INL_H_
#else
#define LORA_CPU_VECTOR_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include "backend/cpu/tile-inl.h"
#include "core/maths/dtype.h"
#include "hwy/highway.h"

// On the oldest targets this file converts f16 itself instead of using Highway's emulation.
#undef LORA_NATIVE_F16
#if HWY_TARGET == HWY_SSE2 || HWY_TARGET == HWY_SSSE3 || HWY_TARGET == HWY_SSE4 || \
    HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
#define LORA_NATIVE_F16 0
#else
#define LORA_NATIVE_F16 1
#endif

HWY_BEFORE_NAMESPACE();
namespace lora::cpu {
namespace HWY_NAMESPACE {

using U32 = hn::RebindToUnsigned<F32>;
using BF16 = hn::Rebind<hwy::bfloat16_t, F32>;
using F16 = hn::Rebind<hwy::float16_t, F32>;
using U16 = hn::Rebind<uint16_t, F32>;

// ---- one vector --------------------------------------------------------------------------------

HWY_INLINE VF32 ReadVec(F32 d, const float* p) { return hn::LoadU(d, p); }
HWY_INLINE VF32 ReadVec(F32 d, const hwy::bfloat16_t* p) {
  return hn::PromoteTo(d, hn::LoadU(BF16(), p));
}
// Reads n < Lanes elements, then zeros.
HWY_INLINE VF32 ReadPart(F32 d, const float* p, size_t n) { return hn::LoadN(d, p, n); }
HWY_INLINE VF32 ReadPart(F32 d, const hwy::bfloat16_t* p, size_t n) {
  return hn::PromoteTo(d, hn::LoadN(BF16(), p, n));
}

// Rounds to nearest even in integer arithmetic: a cast must not depend on the instruction set, and
// vcvtneps2bf16 flushes subnormals to 0. The result is in the upper halves of the lanes.
HWY_INLINE hn::Vec<U32> RoundUpperHalves(VF32 v) {
  const U32 du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(hn::Add(bits, hn::Set(du, 0x7fffu)), odd);
  const auto quiet = hn::Or(bits, hn::Set(du, 0x400000u));
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), quiet, rounded);
}
HWY_INLINE hn::Vec<U16> RoundToBF16(VF32 v) {
  return hn::TruncateTo(U16(), hn::ShiftRight<16>(RoundUpperHalves(v)));
}
// Rounds two vectors at once; the result has those of `even` in the lower halves of the lanes and
// those of `odd` in the upper ones.
HWY_INLINE hn::Vec<U32> RoundToPairs(VF32 even, VF32 odd) {
  const U32 du;
#if HWY_ARCH_X86 && HWY_NATIVE_DOT_BF16
  // The instruction takes a third of the time, and gives another result for a subnormal alone: 0.
  const hn::Repartition<uint16_t, F32> dw;
  const auto rounded = hn::BitCast(dw, PairsOf(even, odd));
  const auto zero = hn::Eq(hn::And(rounded, hn::Set(dw, uint16_t{0x7fff})), hn::Zero(dw));
  if (HWY_LIKELY(hn::AllFalse(dw, zero))) return hn::BitCast(du, rounded);
#endif
  return hn::Or(hn::ShiftRight<16>(RoundUpperHalves(even)),
                hn::And(RoundUpperHalves(odd), hn::Set(du, 0xffff0000u)));
}
HWY_INLINE void WriteVec(F32 d, VF32 v, float* p) { hn::StoreU(v, d, p); }
HWY_INLINE void WriteVec(F32, VF32 v, hwy::bfloat16_t* p) {
  hn::StoreU(RoundToBF16(v), U16(), reinterpret_cast<uint16_t*>(p));
}
HWY_INLINE void WritePart(F32 d, VF32 v, float* p, size_t n) { hn::StoreN(v, d, p, n); }
HWY_INLINE void WritePart(F32, VF32 v, hwy::bfloat16_t* p, size_t n) {
  hn::StoreN(RoundToBF16(v), U16(), reinterpret_cast<uint16_t*>(p), n);
}

// Two vectors of memory: of bf16 the elements of even and of odd index, which takes one instruction
// each. So the operands and the result of a function must have one type.
struct VF32x2 {
  VF32 a, b;
};
HWY_INLINE VF32x2 ReadTwo(F32 d, const float* p) {
  return {hn::LoadU(d, p), hn::LoadU(d, p + hn::Lanes(d))};
}
HWY_INLINE VF32x2 ReadTwo(F32 d, const hwy::bfloat16_t* p) {
  const U32 du;
  const auto bits = hn::LoadU(du, reinterpret_cast<const uint32_t*>(p));
  return {hn::BitCast(d, hn::ShiftLeft<16>(bits)),
          hn::BitCast(d, hn::And(bits, hn::Set(du, 0xffff0000u)))};
}
HWY_INLINE void WriteTwo(F32 d, VF32x2 v, float* p) {
  hn::StoreU(v.a, d, p);
  hn::StoreU(v.b, d, p + hn::Lanes(d));
}
HWY_INLINE void WriteTwo(F32, VF32x2 v, hwy::bfloat16_t* p) {
  hn::StoreU(RoundToPairs(v.a, v.b), U32(), reinterpret_cast<uint32_t*>(p));
}

// Several vectors of memory, in that order where there are more than one.
template <size_t kCount, class T>
HWY_INLINE void ReadSeveral(F32 d, const T* p, VF32 (&v)[kCount]) {
  if constexpr (kCount == 1) {
    v[0] = ReadVec(d, p);
  } else {
    static_assert(kCount % 2 == 0);
    HWY_UNROLL(4)
    for (size_t i = 0; i < kCount; i += 2) {
      const VF32x2 two = ReadTwo(d, p + i * hn::Lanes(d));
      v[i] = two.a;
      v[i + 1] = two.b;
    }
  }
}
template <size_t kCount, class T>
HWY_INLINE void WriteSeveral(F32 d, const VF32 (&v)[kCount], T* p) {
  if constexpr (kCount == 1) {
    WriteVec(d, v[0], p);
  } else {
    HWY_UNROLL(4)
    for (size_t i = 0; i < kCount; i += 2) WriteTwo(d, {v[i], v[i + 1]}, p + i * hn::Lanes(d));
  }
}

// y[i] ← f(d, x[i]...) for n elements; operands may be y itself.
template <class F, class Y, class... X>
HWY_INLINE void Map(const F& f, size_t n, Y* y, const X*... x) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  if constexpr ((std::is_same_v<X, Y> && ...)) {
    for (; i + 2 * lanes <= n; i += 2 * lanes) {
      [&](auto... v) HWY_ATTR {
        const VF32 a = f(d, v.a...), b = f(d, v.b...);
        WriteTwo(d, {a, b}, y + i);
      }(ReadTwo(d, x + i)...);
    }
  }
  for (; i + lanes <= n; i += lanes) WriteVec(d, f(d, ReadVec(d, x + i)...), y + i);
  if (i < n) WritePart(d, f(d, ReadPart(d, x + i, n - i)...), y + i, n - i);
}

// ---- blocks ------------------------------------------------------------------------------------

constexpr size_t kBlock = 512;

inline void ToF32(const void* src, DType dtype, size_t begin, size_t n, float* HWY_RESTRICT dst) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  if (dtype == DType::kBF16) {
    const auto* p = static_cast<const hwy::bfloat16_t*>(src) + begin;
    size_t i = 0;
    for (; i + lanes <= n; i += lanes) hn::StoreU(ReadVec(d, p + i), d, dst + i);
    if (i < n) hn::StoreN(ReadPart(d, p + i, n - i), d, dst + i, n - i);
  } else if (dtype == DType::kF16) {
    const auto* p = static_cast<const uint16_t*>(src) + begin;
    size_t i = 0;
#if LORA_NATIVE_F16
    const F16 dh;
    for (; i + lanes <= n; i += lanes) {
      const auto h = hn::BitCast(dh, hn::LoadU(U16(), p + i));
      hn::StoreU(hn::PromoteTo(d, h), d, dst + i);
    }
#endif
    for (; i < n; ++i) dst[i] = F32FromF16(p[i]);
  } else {
    std::memcpy(dst, static_cast<const float*>(src) + begin, n * sizeof(float));
  }
}

inline void FromF32(const float* HWY_RESTRICT src, size_t n, void* dst, DType dtype, size_t begin) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  if (dtype == DType::kBF16) {
    auto* p = static_cast<hwy::bfloat16_t*>(dst) + begin;
    size_t i = 0;
    for (; i + lanes <= n; i += lanes) WriteVec(d, hn::LoadU(d, src + i), p + i);
    if (i < n) WritePart(d, hn::LoadN(d, src + i, n - i), p + i, n - i);
  } else if (dtype == DType::kF16) {
    auto* p = static_cast<uint16_t*>(dst) + begin;
    size_t i = 0;
#if LORA_NATIVE_F16
    const F16 dh;
    for (; i + lanes <= n; i += lanes) {
      const auto h = hn::DemoteTo(dh, hn::LoadU(d, src + i));
      hn::StoreU(hn::BitCast(U16(), h), U16(), p + i);
    }
#endif
    for (; i < n; ++i) p[i] = F16FromF32(src[i]);
  } else {
    std::memcpy(static_cast<float*>(dst) + begin, src, n * sizeof(float));
  }
}

// Returns elements [begin, begin + n) as f32, either in place or converted into `buffer`.
HWY_INLINE const float* ReadBlock(const void* data, DType dtype, size_t begin, size_t n,
                                  float* buffer) {
  if (dtype == DType::kF32) return static_cast<const float*>(data) + begin;
  ToF32(data, dtype, begin, n, buffer);
  return buffer;
}

// Gives the memory in which to compute elements [begin, begin + n): in place, or `buffer`, which
// Finish then rounds.
class WriteBlock {
 public:
  WriteBlock(void* data, DType dtype, size_t begin, float* buffer)
      : data_(data), dtype_(dtype), begin_(begin) {
    to_ = dtype == DType::kF32 ? static_cast<float*>(data) + begin : buffer;
  }
  float* to() const { return to_; }
  void Finish(size_t n) const {
    if (dtype_ != DType::kF32) FromF32(to_, n, data_, dtype_, begin_);
  }

 private:
  void* data_;
  DType dtype_;
  size_t begin_;
  float* to_;
};

// Returns Σ x over at most kBlock elements, in short f32 chains, one per lane of four vectors.
HWY_INLINE float SumBlock(const float* x, size_t n) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  VF32 s0 = hn::Zero(d), s1 = hn::Zero(d), s2 = hn::Zero(d), s3 = hn::Zero(d);
  size_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = hn::Add(s0, hn::LoadU(d, x + i));
    s1 = hn::Add(s1, hn::LoadU(d, x + i + lanes));
    s2 = hn::Add(s2, hn::LoadU(d, x + i + 2 * lanes));
    s3 = hn::Add(s3, hn::LoadU(d, x + i + 3 * lanes));
  }
  for (; i + lanes <= n; i += lanes) s0 = hn::Add(s0, hn::LoadU(d, x + i));
  if (i < n) s1 = hn::Add(s1, hn::LoadN(d, x + i, n - i));
  return hn::ReduceSum(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

// ---- functions ---------------------------------------------------------------------------------

// Returns 1/x to about 1 ulp where that is a normal number. With vectors of 64 bytes a division
// takes half as long as an exponential; a Newton step doubles the 14 bits of the approximation.
HWY_INLINE VF32 Reciprocal(F32 d, VF32 x) {
  const VF32 one = hn::Set(d, 1.0f);
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  const VF32 y = hn::ApproximateReciprocal(x);
  return hn::MulAdd(y, hn::NegMulAdd(x, y, one), y);
#else
  return hn::Div(one, x);
#endif
}

// s = σ(x) and c = 1 − σ(x) = σ(−x) of several vectors, each accurate by itself, for an x that is
// raised to −87.3 at least. There σ is the smallest normal number, and products of x and σ vanish
// beyond.
template <size_t kCount>
struct SigmoidParts {
  VF32 x[kCount], s[kCount], c[kCount];
  HWY_INLINE SigmoidParts(F32 d, const VF32 (&arguments)[kCount]) {
    VF32 e[kCount];
    HWY_UNROLL(8)
    for (size_t i = 0; i < kCount; ++i) {
      x[i] = hn::Max(hn::Set(d, -87.3f), arguments[i]);  // in this order, as in ExpBelow88
      e[i] = hn::Neg(x[i]);
    }
    ExpBelow88(d, e);
    HWY_UNROLL(8)
    for (size_t i = 0; i < kCount; ++i) {
      s[i] = Reciprocal(d, hn::Add(e[i], hn::Set(d, 1.0f)));
      c[i] = hn::Mul(e[i], s[i]);
    }
  }
};

// Φ(x) and the density φ(x) of the normal distribution, to a few units in the last place, the tail
// included. With z = |x| / √2:
//   Φ(−|x|) = exp(−x²/2)·P(q) / (2·(1 + 2z)),  q = (z − 2)/(z + 2)
// where P is a least squares fit of (1 + 2z)·exp(z²)·erfc(z) for z ≤ 10.6, whose relative error
// is 1.6e-8.
struct NormalPair {
  VF32 cdf, density;
};
HWY_INLINE NormalPair Normal(F32 d, VF32 x) {
  const U32 du;
  const VF32 one = hn::Set(d, 1.0f);
  // Splits x² into s + e, so that the error of s does not grow with |x| in the exponential.
  const VF32 hi = hn::BitCast(d, hn::And(hn::BitCast(du, x), hn::Set(du, 0xfffff000u)));
  const VF32 lo = hn::Sub(x, hi);
  const VF32 s = hn::Mul(x, x);
  const VF32 cross = hn::Add(hn::Sub(hn::Mul(hi, hi), s), hn::Mul(hn::Add(hi, hi), lo));
  const VF32 e = hn::Add(cross, hn::Mul(lo, lo));
  const VF32 half = hn::Set(d, 0.5f);
  const VF32 rough = Exp(d, hn::Mul(s, hn::Set(d, -0.5f)));
  // Where rough is 0 the correction may be NaN (∞ − ∞), so bell is set to 0.
  const VF32 exact = hn::Mul(rough, hn::Sub(one, hn::Mul(half, e)));
  const VF32 bell = hn::IfThenElse(hn::Eq(rough, hn::Zero(d)), hn::Zero(d), exact);

  const VF32 z = hn::Mul(hn::Abs(x), hn::Set(d, 0.70710678f));
  const VF32 two = hn::Set(d, 2.0f);
  // Beyond the fit bell is 0 in f32; the cut keeps q finite.
  const VF32 cut = hn::Min(z, hn::Set(d, 10.6f));
  const VF32 q = hn::Div(hn::Sub(cut, two), hn::Add(cut, two));
  VF32 p = hn::Set(d, -3.950086248e-4f);
  p = hn::MulAdd(p, q, hn::Set(d, -1.220495673e-3f));
  p = hn::MulAdd(p, q, hn::Set(d, 1.312294742e-3f));
  p = hn::MulAdd(p, q, hn::Set(d, 8.623785339e-3f));
  p = hn::MulAdd(p, q, hn::Set(d, -8.061118424e-3f));
  p = hn::MulAdd(p, q, hn::Set(d, -5.420219526e-2f));
  p = hn::MulAdd(p, q, hn::Set(d, 1.640557349e-1f));
  p = hn::MulAdd(p, q, hn::Set(d, -1.660316139e-1f));
  p = hn::MulAdd(p, q, hn::Set(d, -9.276400507e-2f));
  p = hn::MulAdd(p, q, hn::Set(d, 1.276978374f));
  const VF32 tail = hn::Div(hn::Mul(hn::Mul(half, bell), p), hn::MulAdd(two, cut, one));
  const VF32 cdf = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(one, tail));
  return {cdf, hn::Mul(bell, hn::Set(d, 0.39894228f))};
}

}  // namespace HWY_NAMESPACE
}  // namespace lora::cpu
HWY_AFTER_NAMESPACE();

#endif  // toggle
