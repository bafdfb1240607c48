// Vectors of f32 from and to memory of f32 or bf16. All rounding to bf16 is here, to nearest even.
// For a result that is subnormal there are two rules:
//   PairsOf, WriteVec, WritePart  keep it on every instruction set, as casts and elementwise ops do
//   …Fast                         may make 0 of it, because the CPU's own instruction does, which
//                                 takes a third of the time: for products and softmax
#if defined(LORA_BACKEND_CPU_SIMD_BF16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_SIMD_BF16_INL_H_
#undef LORA_BACKEND_CPU_SIMD_BF16_INL_H_
#else
#define LORA_BACKEND_CPU_SIMD_BF16_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "backend/cpu/simd/simd-inl.h"
#include "core/maths/dtype.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

HWY_INLINE VF ReadVec(const float* p) { return hn::LoadU(DF(), p); }
HWY_INLINE VF ReadVec(const hwy::bfloat16_t* p) {
  return hn::PromoteTo(DF(), hn::LoadU(DHalfBF(), p));
}
// Reads n < kLanes elements, then zeros.
HWY_INLINE VF ReadPart(const float* p, size_t n) { return hn::LoadN(DF(), p, n); }
HWY_INLINE VF ReadPart(const hwy::bfloat16_t* p, size_t n) {
  return hn::PromoteTo(DF(), hn::LoadN(DHalfBF(), p, n));
}

// ---- rounding in integer arithmetic ------------------------------------------------------------

// Returns bf16 in the upper half of each lane, for a v that is no NaN. The lower half is garbage.
HWY_INLINE VU RoundNumber(VF v) {
  const DU du;
  const VU bits = hn::BitCast(du, v);
  const VU odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  return hn::Add(bits, hn::Add(hn::Set(du, 0x7fffu), odd));
}
// The same for every v.
HWY_INLINE VU RoundAny(VF v) {
  const DU du;
  const VU quiet = hn::Or(hn::BitCast(du, v), hn::Set(du, 0x400000u));
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), quiet, RoundNumber(v));
}
// Returns the upper halves of `low` in the lower halves of the lanes, and those of `high` above.
HWY_INLINE VU JoinUpperHalves(VU low, VU high) {
  return hn::Or(hn::ShiftRight<16>(low), hn::And(high, hn::Set(DU(), 0xffff0000u)));
}

// ---- rounding by the CPU's instruction ---------------------------------------------------------

// Returns pairs: bf16 of `low` in the lower halves of the lanes, and of `high` in the upper ones.
HWY_INLINE VU PairsOfFast(VF low, VF high) {
  const DU du;
#if HWY_ARCH_X86 && HWY_NATIVE_DOT_BF16
  const DBF db;
  const DU16 dw;
  alignas(64) static constexpr uint16_t kInterleave[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const auto halves = hn::BitCast(dw, hn::OrderedDemote2To(db, low, high));
  return hn::BitCast(du, hn::TableLookupLanes(halves, hn::SetTableIndices(dw, kInterleave)));
#else
  const DHalfU16 dh;
  const DHalfBF db;
  const VU l = hn::PromoteTo(du, hn::BitCast(dh, hn::DemoteTo(db, low)));
  const VU h = hn::PromoteTo(du, hn::BitCast(dh, hn::DemoteTo(db, high)));
  return hn::Or(l, hn::ShiftLeft<16>(h));
#endif
}

HWY_INLINE void WriteVecFast(VF v, float* p) { hn::StoreU(v, DF(), p); }
HWY_INLINE void WriteVecFast(VF v, hwy::bfloat16_t* p) {
  const DHalfBF db;
  hn::StoreU(hn::DemoteTo(db, v), db, p);
}
HWY_INLINE void WriteVecFast(VF v, uint16_t* p) {
  WriteVecFast(v, reinterpret_cast<hwy::bfloat16_t*>(p));
}
HWY_INLINE void WritePartFast(VF v, float* p, size_t n) { hn::StoreN(v, DF(), p, n); }
HWY_INLINE void WritePartFast(VF v, hwy::bfloat16_t* p, size_t n) {
  const DHalfBF db;
  hn::StoreN(hn::DemoteTo(db, v), db, p, n);
}

// dst [⌈k/2⌉ pairs] ← x [k].
HWY_INLINE void RowToPairsFast(const float* HWY_RESTRICT x, size_t k, uint32_t* HWY_RESTRICT dst) {
  uint16_t* to = reinterpret_cast<uint16_t*>(dst);
  size_t i = 0;
  for (; i + kLanes <= k; i += kLanes) WriteVecFast(ReadVec(x + i), to + i);
  for (; i < k; ++i) to[i] = BF16FromF32(x[i]);
  if (k % 2 != 0) to[k] = 0;
}

// ---- rounding that keeps subnormals ------------------------------------------------------------

HWY_INLINE VU PairsOf(VF low, VF high) {
#if HWY_ARCH_X86 && HWY_NATIVE_DOT_BF16
  const DU16 dw;
  const auto rounded = hn::BitCast(dw, PairsOfFast(low, high));
  const auto zero = hn::Eq(hn::And(rounded, hn::Set(dw, uint16_t{0x7fff})), hn::Zero(dw));
  if (HWY_LIKELY(hn::AllFalse(dw, zero))) return hn::BitCast(DU(), rounded);
#endif
  return JoinUpperHalves(RoundAny(low), RoundAny(high));
}
HWY_INLINE hn::Vec<DHalfU16> ToBF16(VF v) {
  return hn::TruncateTo(DHalfU16(), hn::ShiftRight<16>(RoundAny(v)));
}
HWY_INLINE void WriteVec(VF v, float* p) { hn::StoreU(v, DF(), p); }
HWY_INLINE void WriteVec(VF v, hwy::bfloat16_t* p) {
  hn::StoreU(ToBF16(v), DHalfU16(), reinterpret_cast<uint16_t*>(p));
}
HWY_INLINE void WritePart(VF v, float* p, size_t n) { hn::StoreN(v, DF(), p, n); }
HWY_INLINE void WritePart(VF v, hwy::bfloat16_t* p, size_t n) {
  hn::StoreN(ToBF16(v), DHalfU16(), reinterpret_cast<uint16_t*>(p), n);
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
