// The values of codes of 4 bits. For a product of bf16 pairs, the 16 values that an output may have
// are rounded once for each block that shares a scale, and found by shuffles of bytes: rounding
// each value after it was found took twice the time. Elsewhere, also where rows end within blocks,
// each value is found in f32 and multiplied by its scale. Both give the same bits.
#if defined(LORA_BACKEND_CPU_FORMATS_CODES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_FORMATS_CODES_INL_H_
#undef LORA_BACKEND_CPU_FORMATS_CODES_INL_H_
#else
#define LORA_BACKEND_CPU_FORMATS_CODES_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "backend/cpu/formats/pack.h"
#include "backend/cpu/simd/simd-inl.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// Returns the values of codes, each of which is below 16.
HWY_INLINE VF ValuesOfCodes(const CodeTable& table, VU codes) {
  const DF df;
  if constexpr (kLanes >= kCodes) {
    return hn::TableLookupLanes(hn::LoadU(df, table.values), hn::IndicesFromVec(df, codes));
  } else if constexpr (2 * kLanes == kCodes) {
    return hn::TwoTablesLookupLanes(df, hn::LoadU(df, table.values),
                                    hn::LoadU(df, table.values + kLanes),
                                    hn::IndicesFromVec(df, codes));
  } else if constexpr (HWY_ARCH_X86) {
    // SSE2 has no shuffle of bytes, and elsewhere four of them take twice the time of four loads.
    return hn::GatherIndex(df, table.values, hn::BitCast(DI(), codes));
  } else {
    const hn::Repartition<uint8_t, DU> d8;
    const VU pairs = hn::Or(codes, hn::ShiftLeft<8>(codes));
    const auto index = hn::BitCast(d8, hn::Or(pairs, hn::ShiftLeft<16>(pairs)));
    VU bits = hn::Zero(DU());
    for (size_t b = 0; b < sizeof(float); ++b) {
      const auto bytes = hn::TableLookupBytes(hn::LoadDup128(d8, table.bytes[b]), index);
      bits = hn::Or(bits, hn::And(hn::BitCast(DU(), bytes), hn::Set(DU(), 0xffu << (8 * b))));
    }
    return hn::BitCast(df, bits);
  }
}

// Whether one instruction finds the values of codes by the lower four bits of lanes.
constexpr bool kFindsCodes = HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3;
// Whole numbers as codes.
inline constexpr CodeTable kNibbles({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
// Two bits above four others, whatever the two bits above them are.
inline constexpr CodeTable kHighPairs({0, 16, 32, 48, 0, 16, 32, 48, 0, 16, 32, 48, 0, 16, 32, 48});

// Returns the values of the codes in the four bits of lanes from bit `shift` on.
HWY_INLINE VF FindCodes(const CodeTable& table, VU bits, int shift = 0) {
  const VU codes = hn::ShiftRightSame(bits, shift);
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  // Highway's lookups demand indices without other bits.
  const VF low = hn::LoadU(DF(), table.values);
#if HWY_TARGET <= HWY_AVX3
  return VF{_mm512_permutexvar_ps(codes.raw, low.raw)};
#else
  const VF high = hn::LoadU(DF(), table.values + kLanes);
  const VF last = hn::BitCast(DF(), hn::ShiftLeftSame(bits, 28 - shift));  // in the sign
  return VF{_mm256_blendv_ps(_mm256_permutevar8x32_ps(low.raw, hn::BitCast(DI(), codes).raw),
                             _mm256_permutevar8x32_ps(high.raw, hn::BitCast(DI(), codes).raw),
                             last.raw)};
#endif
#else
  return ValuesOfCodes(table, hn::And(codes, hn::Set(DU(), 15u)));
#endif
}

// The scales of a panel, and the values of its codes. Value l of output j has the scale
// scales[(l >> shift)·kPanelWidth + j].
struct Scaling {
  const float* scales;
  unsigned shift;
  const CodeTable* codes;

  // Returns the address of those of outputs j, j + 1, …
  HWY_INLINE const float* At(size_t value, size_t j) const {
    return scales + (value >> shift) * kPanelWidth + j;
  }
  HWY_INLINE VF Of(size_t value, size_t j) const { return hn::LoadU(DF(), At(value, j)); }
};
HWY_INLINE Scaling ScalingOf(const PanelSource& w, size_t panel) {
  return {w.scales ? w.scales + panel * w.scale_stride : nullptr, w.scale_shift, w.codes};
}

// Returns value kIndex of the eight codes in each lane, of which `value` is the first.
template <int kIndex>
HWY_INLINE VF CodedValue(VU stored, const Scaling& scaling, VF first_scale, size_t value,
                         size_t j) {
  const VU code = hn::And(hn::ShiftRight<CodeShift(kIndex)>(stored), hn::Set(DU(), 15u));
  // Blocks that are cut by the ends of rows may change within an element.
  const VF scale = scaling.shift >= 3 ? first_scale : scaling.Of(value + kIndex, j);
  return hn::Mul(ValuesOfCodes(*scaling.codes, code), scale);
}

// ---- codes that become bf16 pairs by tables ----------------------------------------------------

using DU8 = hn::Repartition<uint8_t, DF>;
using VU8 = hn::Vec<DU8>;

// The 16 values of the codes times the scale of an output, rounded to bf16: their lower bytes and
// their upper ones. Tables o of a vector are those of lane o of each block of 128 bits, which they
// fill, so that one shuffle of bytes finds 16 values in each block.
struct RoundedCodes {
  // A constructor that the compiler makes has not the attributes of the target, which vectors need
  // on ARM.
  RoundedCodes() {}

  VU8 lower[4], upper[4];
};

// Returns the tables of kLanes outputs, given their scales.
HWY_INLINE RoundedCodes RoundCodes(const CodeTable& codes, VF scales) {
  const DF df;
  const DU du;
  const DU16 d16;
  const DU8 d8;
  const hn::Repartition<uint64_t, DF> d64;
  // Returns bf16 of the 8 codes from `values` on: their lower bytes, then their upper ones.
  const auto round_eight = [&](const float* values, VF scale) HWY_ATTR {
    const VU first = hn::BitCast(du, hn::Mul(hn::LoadDup128(df, values), scale));
    const VU second = hn::BitCast(du, hn::Mul(hn::LoadDup128(df, values + 4), scale));
    // The halves of f32 of codes 0, 4, 1, 5, 2, 6, 3, 7.
    const auto upper =
        hn::OddEven(hn::BitCast(d16, second), hn::BitCast(d16, hn::ShiftRight<16>(first)));
    const auto lower =
        hn::OddEven(hn::BitCast(d16, hn::ShiftLeft<16>(second)), hn::BitCast(d16, first));
    // To nearest even: up where the lower half is above 0x8000, or equal under an odd upper half.
    const auto one = hn::Set(d16, uint16_t{1});
    const auto above = hn::SaturatedSub(hn::SaturatedAdd(lower, hn::And(upper, one)),
                                        hn::Set(d16, uint16_t{0x8000}));
    const auto rounded = hn::Add(upper, hn::Min(above, one));
    const auto order =
        hn::Dup128VecFromValues(d8, 0, 4, 8, 12, 2, 6, 10, 14, 1, 5, 9, 13, 3, 7, 11, 15);
    return hn::BitCast(d64, hn::TableLookupBytes(hn::BitCast(d8, rounded), order));
  };
  RoundedCodes tables;
  const auto fill = [&](auto output) HWY_ATTR {
    constexpr int kOutput = decltype(output)::value;
    const VF scale = hn::BitCast(df, hn::Broadcast<kOutput>(hn::BitCast(du, scales)));
    const auto low = round_eight(codes.values, scale), high = round_eight(codes.values + 8, scale);
    tables.lower[kOutput] = hn::BitCast(d8, hn::InterleaveLower(d64, low, high));
    tables.upper[kOutput] = hn::BitCast(d8, hn::InterleaveUpper(d64, low, high));
  };
  fill(std::integral_constant<int, 0>());
  fill(std::integral_constant<int, 1>());
  fill(std::integral_constant<int, 2>());
  fill(std::integral_constant<int, 3>());
  return tables;
}

// Transposes 4 vectors of 4 lanes in each block of 128 bits. Most steps choose between two vectors
// and keep lanes in their places, which CPUs do in more units than they move lanes.
HWY_INLINE void TransposeBlocks(VU (&v)[4]) {
  const DU du;
  const hn::Repartition<uint64_t, DU> d64;
  // Makes (a0, b0, a2, b2) and (a1, b1, a3, b3) of a and b.
  const auto pairs = [&](VU& a, VU& b) HWY_ATTR {
    const VU moved = hn::Shuffle2301(hn::OddEven(a, b));
    a = hn::OddEven(moved, a);
    b = hn::OddEven(b, moved);
  };
  // Makes (a0, a1, b0, b1) and (a2, a3, b2, b3) of a and b.
  const auto halves = [&](VU& a, VU& b) HWY_ATTR {
    const auto moved = hn::BitCast(d64, hn::CombineShiftRightBytes<8>(du, b, a));
    a = hn::BitCast(du, hn::OddEven(moved, hn::BitCast(d64, a)));
    b = hn::BitCast(du, hn::OddEven(hn::BitCast(d64, b), moved));
  };
  pairs(v[0], v[1]);
  pairs(v[2], v[3]);
  halves(v[0], v[2]);
  halves(v[1], v[3]);
}

// How many pairs a stored element of codes has, how many stored elements are expanded together, and
// how many pairs these have.
constexpr size_t kPairsPerStored = 4, kCodedRows = 4, kCodedPairs = kPairsPerStored * kCodedRows;

// dst [kCodedPairs][kPanelWidth] ← the pairs of kCodedRows stored elements, for kLanes outputs.
// What lies `ahead` elements behind them is prefetched.
HWY_INLINE void ExpandCodes(const uint32_t* HWY_RESTRICT from, const RoundedCodes& tables,
                            uint32_t* HWY_RESTRICT dst, ptrdiff_t ahead) {
  const DU du;
  const DU8 d8;
  // The lanes are outputs. After the transposition each block has the 16 bytes of one output.
  VU stored[kCodedRows];
  HWY_UNROLL(4)
  for (size_t i = 0; i < kCodedRows; ++i) {
    stored[i] = hn::LoadU(du, from + i * kPanelWidth);
    hwy::Prefetch(from + ahead + i * kPanelWidth);
  }
  TransposeBlocks(stored);
  // The lower codes of the bytes are values 0 to 3 of each 8, the upper ones 4 to 7.
  HWY_UNROLL(2)
  for (size_t half = 0; half < 2; ++half) {
    VU first[4], second[4];
    HWY_UNROLL(4)
    for (size_t j = 0; j < 4; ++j) {
      const VU shifted = half == 0 ? stored[j] : hn::ShiftRight<4>(stored[j]);
      const VU8 index = hn::And(hn::BitCast(d8, shifted), hn::Set(d8, uint8_t{15}));
      const VU8 lower = hn::TableLookupBytes(tables.lower[j], index);
      const VU8 upper = hn::TableLookupBytes(tables.upper[j], index);
      first[j] = hn::BitCast(du, hn::InterleaveLower(d8, lower, upper));
      second[j] = hn::BitCast(du, hn::InterleaveUpper(d8, lower, upper));
    }
    TransposeBlocks(first);
    TransposeBlocks(second);
    // `first` has two pairs of stored elements 0 and 1, `second` those of 2 and 3.
    HWY_UNROLL(4)
    for (size_t i = 0; i < 4; ++i) {
      const size_t pair = i / 2 * kPairsPerStored + half * 2 + i % 2;
      hn::StoreU(first[i], du, dst + pair * kPanelWidth);
      hn::StoreU(second[i], du, dst + (2 * kPairsPerStored + pair) * kPanelWidth);
    }
  }
}

// Returns how many of the `count` pairs of a panel from `first` on ExpandRun makes at once: a
// multiple of kCodedPairs that share a scale, or 0.
HWY_INLINE size_t CodedRun(const Scaling& scaling, size_t first, size_t count) {
  const size_t shared = (size_t{1} << scaling.shift) / 2;
  if (shared < kCodedPairs) return 0;
  return std::min(shared - first % shared, count) / kCodedPairs * kCodedPairs;
}

// dst [run][kPanelWidth] ← pairs [first, first + run) of a panel, which are stored from `from` on.
// CodedRun gave `run`.
HWY_INLINE void ExpandRun(const uint32_t* HWY_RESTRICT from, const Scaling& scaling, size_t first,
                          size_t run, uint32_t* HWY_RESTRICT dst, ptrdiff_t ahead) {
  for (size_t j = 0; j < kPanelWidth; j += kLanes) {
    const float* const scales = scaling.At(2 * first, j);
    hwy::Prefetch(scales + kPanelWidth);  // of the block that follows
    const RoundedCodes tables = RoundCodes(*scaling.codes, hn::LoadU(DF(), scales));
    for (size_t e = 0; e < run; e += kCodedPairs) {
      ExpandCodes(from + e / kPairsPerStored * kPanelWidth + j, tables, dst + e * kPanelWidth + j,
                  ahead);
    }
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
