// The loop of an optimizer's step over the elements of a parameter, its gradient and its state. One
// pass reads and writes each of them once. A parameter of bf16 is widened and rounded in chunks
// that stay in L1.
#if defined(LORA_BACKEND_CPU_OPTIMIZERS_STEP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_OPTIMIZERS_STEP_INL_H_
#undef LORA_BACKEND_CPU_OPTIMIZERS_STEP_INL_H_
#else
#define LORA_BACKEND_CPU_OPTIMIZERS_STEP_INL_H_
#endif

#include <algorithm>

#include "backend/cpu/simd/vector-inl.h"
#include "core/maths/stochastic_rounding.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// rule(d, p, g, state…) updates a vector of p and of each state in place, for elements [begin, end)
// of p, g and the states.
template <class Rule, class... State>
HWY_INLINE void StepElements(const Rule& rule, size_t begin, size_t end, float* p, const float* g,
                             State*... states) {
  const DF d;
  size_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    VF new_p = ReadVec(p + i);
    [&](auto... state) HWY_ATTR {
      rule(d, new_p, ReadVec(g + i), state...);
      (WriteVec(state, states + i), ...);
    }(ReadVec(states + i)...);
    WriteVec(new_p, p + i);
  }
  if (i == end) return;
  const size_t n = end - i;
  VF new_p = ReadPart(p + i, n);
  [&](auto... state) HWY_ATTR {
    rule(d, new_p, ReadPart(g + i, n), state...);
    (WritePart(state, states + i, n), ...);
  }(ReadPart(states + i, n)...);
  WritePart(new_p, p + i, n);
}

// Returns the upper and the lower halves of a[i]·b.
struct WideProduct {
  VU high, low;
};
HWY_INLINE WideProduct MulWide(VU a, uint32_t b) {
  const DU du;
  const hn::Repartition<uint64_t, DU> d64;
  const VU factor = hn::Set(du, b);
  const auto even = hn::MulEven(a, factor);
  const auto odd = hn::MulEven(hn::BitCast(du, hn::ShiftRight<32>(hn::BitCast(d64, a))), factor);
  return {hn::OddEven(hn::BitCast(du, odd), hn::BitCast(du, hn::ShiftRight<32>(even))),
          hn::OddEven(hn::BitCast(du, hn::ShiftLeft<32>(odd)), hn::BitCast(du, even))};
}

constexpr size_t kRoundedChunk = 256;  // elements, of a whole number of vectors of eighths

// random[0 .. 8·count) ← RoundingBits of the elements from 8·eighth on, for whole vectors of Philox
// calls: `random` has room for kRoundedChunk of them, and count is at most an eighth of that.
HWY_INLINE void FillRoundingBits(uint64_t seed, uint32_t parameter, uint32_t step, uint64_t eighth,
                                 size_t count, uint16_t* HWY_RESTRICT random) {
  static_assert(kRoundedChunk / 8 % kLanes == 0);
  const DU du;
  for (size_t i = 0; i < count; i += kLanes) {
    VU c0 = hn::Iota(du, static_cast<uint32_t>(eighth + i)), c1 = hn::Set(du, parameter);
    VU c2 = hn::Set(du, step), c3 = hn::Set(du, kRoundingTag);
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const WideProduct p0 = MulWide(c0, 0xD2511F53u), p1 = MulWide(c2, 0xCD9E8D57u);
      c0 = hn::Xor(hn::Xor(p1.high, c1), hn::Set(du, k0));
      c2 = hn::Xor(hn::Xor(p0.high, c3), hn::Set(du, k1));
      c1 = p1.low;
      c3 = p0.low;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    // The words of a call lie side by side, and so do the halves of a word, the lower one first.
    hn::StoreInterleaved4(c0, c1, c2, c3, du, reinterpret_cast<uint32_t*>(random + 8 * i));
  }
}

// Returns RoundStochastically of each lane.
HWY_INLINE hn::Vec<DHalfU16> RoundStochastically(VF v, hn::Vec<DHalfU16> random) {
  const DU du;
  const VU bits = hn::BitCast(du, v);
  const VU quiet = hn::Or(bits, hn::Set(du, 0x400000u));
  const VU rounded = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), quiet,
                                    hn::Add(bits, hn::PromoteTo(du, random)));
  return hn::TruncateTo(DHalfU16(), hn::ShiftRight<16>(rounded));
}

// Does so with elements [begin, end) of a segment, f32 or bf16; `states` begin at element `begin`.
template <class Rule, class Segment, class... State>
HWY_INLINE void StepSegment(const Rule& rule, const Segment& segment, size_t begin, size_t end,
                            State*... states) {
  const float* g = segment.grad.template as<const float>();
  if (segment.param.dtype == DType::kF32) {
    StepElements(rule, 0, end - begin, segment.param.template as<float>() + begin, g + begin,
                 states...);
    return;
  }
  uint16_t* const p = segment.param.template as<uint16_t>();
  const auto& [seed, parameter, step] = segment.rounding;
  HWY_ALIGN float wide[kRoundedChunk];
  HWY_ALIGN uint16_t random[kRoundedChunk];
  for (size_t first = begin; first < end;) {
    const size_t skip = first % 8, n = std::min(kRoundedChunk - skip, end - first);
    ToF32(p, DType::kBF16, first, n, wide);
    StepElements(rule, 0, n, wide, g + first, (states + (first - begin))...);
    FillRoundingBits(seed, parameter, step, first / 8, (skip + n + 7) / 8, random);
    const DHalfU16 dh;
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
      hn::StoreU(RoundStochastically(ReadVec(wide + i), hn::LoadU(dh, random + skip + i)), dh,
                 p + first + i);
    if (i < n)
      hn::StoreN(
          RoundStochastically(ReadPart(wide + i, n - i), hn::LoadN(dh, random + skip + i, n - i)),
          dh, p + first + i, n - i);
    first += n;
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
