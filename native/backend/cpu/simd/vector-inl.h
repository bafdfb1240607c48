// Moves vectors of f32 from and to memory of any float dtype, and loops over blocks of them.
//
// Arithmetic is f32 with one rounding, at the store. A kernel for every mix of dtypes would
// multiply the kernels, so elementwise ops work on blocks of kBlock f32 elements that stay in L1:
// f32 operands are used in place, others pass through a buffer on the stack.
#if defined(LORA_BACKEND_CPU_SIMD_VECTOR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_SIMD_VECTOR_INL_H_
#undef LORA_BACKEND_CPU_SIMD_VECTOR_INL_H_
#else
#define LORA_BACKEND_CPU_SIMD_VECTOR_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include "backend/cpu/simd/bf16-inl.h"
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
namespace lora::cpu::HWY_NAMESPACE {

// Two vectors of memory: of bf16 the elements of even and of odd index, which takes one instruction
// each. So the operands and the result of a function must have one type.
struct VFx2 {
  VF a, b;
};
HWY_INLINE VFx2 ReadTwo(const float* p) { return {ReadVec(p), ReadVec(p + kLanes)}; }
HWY_INLINE VFx2 ReadTwo(const hwy::bfloat16_t* p) {
  const DU du;
  const auto bits = hn::LoadU(du, reinterpret_cast<const uint32_t*>(p));
  return {hn::BitCast(DF(), hn::ShiftLeft<16>(bits)),
          hn::BitCast(DF(), hn::And(bits, hn::Set(du, 0xffff0000u)))};
}
HWY_INLINE void WriteTwo(VFx2 v, float* p) {
  WriteVec(v.a, p);
  WriteVec(v.b, p + kLanes);
}
HWY_INLINE void WriteTwo(VFx2 v, hwy::bfloat16_t* p) {
  hn::StoreU(PairsOf(v.a, v.b), DU(), reinterpret_cast<uint32_t*>(p));
}

// Several vectors of memory, in that order where there are more than one.
template <size_t kCount, class T>
HWY_INLINE void ReadSeveral(const T* p, VF (&v)[kCount]) {
  if constexpr (kCount == 1) {
    v[0] = ReadVec(p);
  } else {
    static_assert(kCount % 2 == 0);
    HWY_UNROLL(4)
    for (size_t i = 0; i < kCount; i += 2) {
      const VFx2 two = ReadTwo(p + i * kLanes);
      v[i] = two.a;
      v[i + 1] = two.b;
    }
  }
}
template <size_t kCount, class T>
HWY_INLINE void WriteSeveral(const VF (&v)[kCount], T* p) {
  if constexpr (kCount == 1) {
    WriteVec(v[0], p);
  } else {
    HWY_UNROLL(4)
    for (size_t i = 0; i < kCount; i += 2) WriteTwo({v[i], v[i + 1]}, p + i * kLanes);
  }
}

// y[i] ← f(d, x[i]...) for n elements; operands may be y itself.
template <class F, class Y, class... X>
HWY_INLINE void Map(const F& f, size_t n, Y* y, const X*... x) {
  const DF d;
  size_t i = 0;
  if constexpr ((std::is_same_v<X, Y> && ...)) {
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
      [&](auto... v) HWY_ATTR {
        const VF a = f(d, v.a...), b = f(d, v.b...);
        WriteTwo({a, b}, y + i);
      }(ReadTwo(x + i)...);
    }
  }
  for (; i + kLanes <= n; i += kLanes) WriteVec(f(d, ReadVec(x + i)...), y + i);
  if (i < n) WritePart(f(d, ReadPart(x + i, n - i)...), y + i, n - i);
}

// Sums f over the vectors of [0, count), n elements each; lanes beyond n must add 0.
template <class F>
HWY_INLINE float SumVectors(size_t count, const F& f) {
  const DF d;
  VF s0 = hn::Zero(d), s1 = hn::Zero(d), s2 = hn::Zero(d), s3 = hn::Zero(d);
  size_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    s0 = f.Add(s0, i);
    s1 = f.Add(s1, i + kLanes);
    s2 = f.Add(s2, i + 2 * kLanes);
    s3 = f.Add(s3, i + 3 * kLanes);
  }
  for (; i + kLanes <= count; i += kLanes) s0 = f.Add(s0, i);
  if (i < count) s1 = f.AddPart(s1, i, count - i);
  return hn::ReduceSum(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

// ---- blocks ------------------------------------------------------------------------------------

constexpr size_t kBlock = 512;

inline void ToF32(const void* src, DType dtype, size_t begin, size_t n, float* HWY_RESTRICT dst) {
  const DF d;
  if (dtype == DType::kBF16) {
    const auto* p = static_cast<const hwy::bfloat16_t*>(src) + begin;
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) hn::StoreU(ReadVec(p + i), d, dst + i);
    if (i < n) hn::StoreN(ReadPart(p + i, n - i), d, dst + i, n - i);
  } else if (dtype == DType::kF16) {
    const auto* p = static_cast<const uint16_t*>(src) + begin;
    size_t i = 0;
#if LORA_NATIVE_F16
    const DHalfF16 dh;
    for (; i + kLanes <= n; i += kLanes) {
      const auto h = hn::BitCast(dh, hn::LoadU(DHalfU16(), p + i));
      hn::StoreU(hn::PromoteTo(d, h), d, dst + i);
    }
#endif
    for (; i < n; ++i) dst[i] = F32FromF16(p[i]);
  } else {
    std::memcpy(dst, static_cast<const float*>(src) + begin, n * sizeof(float));
  }
}

inline void FromF32(const float* HWY_RESTRICT src, size_t n, void* dst, DType dtype, size_t begin) {
  const DF d;
  if (dtype == DType::kBF16) {
    auto* p = static_cast<hwy::bfloat16_t*>(dst) + begin;
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) WriteVec(hn::LoadU(d, src + i), p + i);
    if (i < n) WritePart(hn::LoadN(d, src + i, n - i), p + i, n - i);
  } else if (dtype == DType::kF16) {
    auto* p = static_cast<uint16_t*>(dst) + begin;
    size_t i = 0;
#if LORA_NATIVE_F16
    const DHalfF16 dh;
    for (; i + kLanes <= n; i += kLanes) {
      const auto h = hn::DemoteTo(dh, hn::LoadU(d, src + i));
      hn::StoreU(hn::BitCast(DHalfU16(), h), DHalfU16(), p + i);
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
  const DF d;
  VF s0 = hn::Zero(d), s1 = hn::Zero(d), s2 = hn::Zero(d), s3 = hn::Zero(d);
  size_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    s0 = hn::Add(s0, hn::LoadU(d, x + i));
    s1 = hn::Add(s1, hn::LoadU(d, x + i + kLanes));
    s2 = hn::Add(s2, hn::LoadU(d, x + i + 2 * kLanes));
    s3 = hn::Add(s3, hn::LoadU(d, x + i + 3 * kLanes));
  }
  for (; i + kLanes <= n; i += kLanes) s0 = hn::Add(s0, hn::LoadU(d, x + i));
  if (i < n) s1 = hn::Add(s1, hn::LoadN(d, x + i, n - i));
  return hn::ReduceSum(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
