// Whole numbers times whole numbers: the codes of x, in groups of 32 that share a scale, by those
// of W. A piece of a panel becomes quads (quads-inl.h) in the L1 cache, by which all rows are
// multiplied.
//
// The sums of a group are exact. They are scaled and added in the order of the groups with every
// product and sum rounded, so that all instruction sets give the same bits: this file is compiled
// without joining products and additions.
#if defined(LORA_BACKEND_CPU_PRODUCT_WHOLE_NUMBERS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_PRODUCT_WHOLE_NUMBERS_INL_H_
#undef LORA_BACKEND_CPU_PRODUCT_WHOLE_NUMBERS_INL_H_
#else
#define LORA_BACKEND_CPU_PRODUCT_WHOLE_NUMBERS_INL_H_
#endif

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "backend/cpu/formats/block_lanes-inl.h"
#include "backend/cpu/formats/quads-inl.h"
#include "backend/cpu/product/panels.h"
#include "backend/cpu/product/whole_numbers.h"
#include "backend/cpu/simd/bf16-inl.h"
#include "backend/cpu/simd/simd-inl.h"
#include "core/maths/ceil_div.h"
#include "core/maths/int8_activations.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

using DI16 = hn::Repartition<int16_t, DF>;

// Where kDotsQuads, signed codes are multiplied as unsigned ones, which are so much larger.
constexpr int kSignedZero = kDotsQuads ? 128 : 0;

constexpr size_t kHalfValues = kActivationGroup / 2;
constexpr size_t kHalfQuads = kHalfValues / kQuadValues;
static_assert(kHalfValues == kGroupValues);

// ---- products ----------------------------------------------------------------------------------

// Codes of a panel with one scale, a term of the sums, and the x of a tile of rows.
struct Term {
  const uint32_t* x;  // [rows][2·kHalfQuads], from the first code of the term on
  const uint32_t* quads;
  const float *scales, *offsets;  // [kPanelWidth]
  const float* x_scales;          // [rows]
  const int32_t* x_sums;          // [rows][2], likewise
  float* sums;                    // [rows][kPanelWidth]
};
constexpr size_t kRowQuads = 2 * kHalfQuads;

// How many sums of two products fit 16 bits: of codes of so many bits by ones of up to 127.
constexpr size_t PairSums(int bits) { return bits <= 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1; }

// acc += Σ over kQuads quads of x·w.
template <int kBits, size_t kQuads, size_t kRows>
HWY_INLINE void SumQuads(const Term& t, VI (&acc)[kRows][kVectors]) {
  const DI di;
  const DU du;
  const DU8 du8;
  const DI8 di8;
  if constexpr (kDotsQuads) {
    HWY_UNROLL(8)
    for (size_t e = 0; e < kQuads; ++e) {
      HWY_UNROLL(8)
      for (size_t i = 0; i < kRows; ++i) {
        const auto x = hn::BitCast(di8, hn::Set(du, t.x[i * kRowQuads + e]));
        HWY_UNROLL(4)
        for (size_t j = 0; j < kVectors; ++j) {
          const auto w = hn::BitCast(du8, hn::LoadU(du, t.quads + e * kPanelWidth + j * kLanes));
          acc[i][j] = hn::SumOfMulQuadAccumulate(di, w, x, acc[i][j]);
        }
      }
    }
  } else {
    const DI16 di16;
    using VI16 = hn::Vec<DI16>;
    const VI16 ones = hn::Set(di16, 1);
    constexpr size_t kAtOnce = std::min(PairSums(kBits), kQuads);
    for (size_t first = 0; first < kQuads; first += kAtOnce) {
      VI16 pairs[kRows][kVectors];
      HWY_UNROLL(8)
      for (size_t i = 0; i < kRows; ++i) {
        HWY_UNROLL(4)
        for (size_t j = 0; j < kVectors; ++j) pairs[i][j] = hn::Zero(di16);
      }
      // Unrolled, GCC would add the sums in another order, for which there are no registers.
      HWY_UNROLL(1)
      for (size_t e = first; e < first + kAtOnce; ++e) {
        VU w[kVectors];
        HWY_UNROLL(4)
        for (size_t j = 0; j < kVectors; ++j) {
          w[j] = hn::LoadU(du, t.quads + e * kPanelWidth + j * kLanes);
        }
        HWY_UNROLL(8)
        for (size_t i = 0; i < kRows; ++i) {
          const auto x = hn::BitCast(di8, hn::Set(du, t.x[i * kRowQuads + e]));
          HWY_UNROLL(4)
          for (size_t j = 0; j < kVectors; ++j) {
            VI16 two;
            if constexpr (kBits == 8) {
              // |w|·(x with the sign of w): two of these are at most 2·128·127.
              const auto code = hn::BitCast(di8, w[j]);
              const auto size = hn::BitCast(du8, hn::Abs(code));
              two = hn::SatWidenMulPairwiseAdd(di16, size,
                                               hn::IfNegativeThenNegOrUndefIfZero(code, x));
            } else {
              two = hn::SatWidenMulPairwiseAdd(di16, hn::BitCast(du8, w[j]), x);
            }
            if constexpr (kAtOnce == 1) {
              acc[i][j] = hn::Add(acc[i][j], hn::WidenMulPairwiseAdd(di, two, ones));
            } else {
              pairs[i][j] = hn::Add(pairs[i][j], two);
            }
          }
        }
      }
      if constexpr (kAtOnce == 1) continue;
      HWY_UNROLL(8)
      for (size_t i = 0; i < kRows; ++i) {
        HWY_UNROLL(4)
        for (size_t j = 0; j < kVectors; ++j) {
          acc[i][j] = hn::Add(acc[i][j], hn::WidenMulPairwiseAdd(di, pairs[i][j], ones));
        }
      }
    }
  }
}

// How many rows have their sums in registers.
template <int kBits>
constexpr size_t kWholeTile = kDotsQuads || kBits <= 4 ? kRegisterRows
                              : kBits == 8             ? 4
                                                       : 3;

// sums += scale·x_scale·(Σ (code − kZero)·x) + offset·(x_scale·Σ x).
template <int kBits, int kZero, size_t kHalves, bool kOffsets, size_t kRows>
HWY_INLINE void AddTerm(const Term& t) {
  const DF df;
  const DI di;
  VI acc[kRows][kVectors];
  int32_t x_sums[kRows];
  HWY_UNROLL(8)
  for (size_t i = 0; i < kRows; ++i) {
    const int32_t* const of = t.x_sums + 2 * i;
    x_sums[i] = kHalves == 2 ? of[0] + of[1] : of[0];
    HWY_UNROLL(4)
    for (size_t j = 0; j < kVectors; ++j) acc[i][j] = hn::Set(di, -kZero * x_sums[i]);
  }
  SumQuads<kBits, kHalves * kHalfQuads>(t, acc);
  HWY_UNROLL(8)
  for (size_t i = 0; i < kRows; ++i) {
    const float x_scale = t.x_scales[i];
    const VF scale = hn::Set(df, x_scale);
    const VF x_sum = hn::Set(df, x_scale * static_cast<float>(x_sums[i]));
    HWY_UNROLL(4)
    for (size_t j = 0; j < kVectors; ++j) {
      float* const to = t.sums + i * kPanelWidth + j * kLanes;
      const VF both = hn::Mul(hn::LoadU(df, t.scales + j * kLanes), scale);
      VF sum = hn::Add(hn::LoadU(df, to), hn::Mul(both, hn::ConvertTo(df, acc[i][j])));
      if constexpr (kOffsets) {
        sum = hn::Add(sum, hn::Mul(hn::LoadU(df, t.offsets + j * kLanes), x_sum));
      }
      hn::StoreU(sum, df, to);
    }
  }
}

template <int kBits, int kZero, size_t kHalves, bool kOffsets, size_t kRows>
HWY_NOINLINE void AddTermOfTile(const Term& t) {
  AddTerm<kBits, kZero, kHalves, kOffsets, kRows>(t);
}

// Rows of x from `first` on, and where their sums are.
struct WholeCall {
  const WholeRows* x;
  size_t first, rows;
  float* sums;
};

// Adds a term of all rows. It begins at half `half` of the groups of a row. A term takes about as
// long as a call and a division, so that one row has neither, and several rows no division.
template <int kBits, int kZero, size_t kHalves, bool kOffsets>
HWY_INLINE void AddTermOfRows(const WholeCall& call, size_t half, const uint32_t* quads,
                              const float* scales, const float* offsets) {
  constexpr size_t kTile = kWholeTile<kBits>;
  const size_t group = half / 2, half_of = half % 2, at = group * call.x->rows + call.first;
  const auto* const codes = reinterpret_cast<const uint32_t*>(call.x->codes);
  Term t = {codes + at * kRowQuads + half_of * kHalfQuads,
            quads,
            scales,
            offsets,
            call.x->scales + at,
            call.x->sums + 2 * at + half_of,
            call.sums};
  if (call.rows == 1) return AddTerm<kBits, kZero, kHalves, kOffsets, 1>(t);
  for (size_t left = call.rows, count; left != 0; left -= count) {
    count = left >= 2 * kTile ? kTile : left > kTile ? (left + 1) / 2 : left;
    ForCount<kTile>(count, [&](auto rows) HWY_ATTR {
      AddTermOfTile<kBits, kZero, kHalves, kOffsets, rows()>(t);
    });
    t.x += count * kRowQuads;
    t.x_scales += count;
    t.x_sums += 2 * count;
    t.sums += count * kPanelWidth;
  }
}

// How far ahead of its products a panel is fetched, in bytes.
constexpr size_t kWholeAhead = 2048;

HWY_INLINE void FetchAhead(const uint8_t* at, size_t bytes) {
  for (size_t line = 0; line < bytes; line += kCacheLine) hwy::Prefetch(at + kWholeAhead + line);
}

// ---- panels of blocks --------------------------------------------------------------------------

// A unit is the runs of a block that hold whole terms: a run, or two, whose parts are halves of a
// group, or groups, or in Q6_K, whose halves have scales of their own, terms themselves.
template <class Decoder>
struct Units {
  static constexpr size_t kHalves = Decoder::kGroupsPerScale;  // of a term
  static constexpr bool kPartsApart = Decoder::GroupOf(0, 1) > 1;
  static constexpr size_t kTerms = kPartsApart ? 2 : 1;
  static constexpr size_t kRuns = kHalves * kTerms / kRunParts;
  // Which half of its term a part of a run is.
  static constexpr size_t HalfOf(size_t run, size_t part) { return kPartsApart ? run : run + part; }
  static constexpr size_t TermOf(size_t part) { return kPartsApart ? part : 0; }
};

// quads [kTerms][kHalves·4][kPanelWidth] ← the codes of a unit.
template <class Decoder, class Coded>
HWY_INLINE void ReadUnit(const uint8_t* HWY_RESTRICT block, size_t unit,
                         uint32_t* HWY_RESTRICT to) {
  using U = Units<Decoder>;
  const auto read = [&](auto part, size_t run, size_t i) HWY_ATTR {
    constexpr size_t kPart = part();
    Quads quads;
    Coded::template CodesOf<kPart>(block, unit * U::kRuns + run, i, quads);
    const size_t half = U::TermOf(kPart) * U::kHalves + U::HalfOf(run, kPart);
    uint32_t* const at = to + (half * kHalfQuads + i / kQuadValues) * kPanelWidth;
    HWY_UNROLL(4)
    for (size_t j = 0; j < kVectors; ++j) hn::StoreU(quads[j], DU(), at + j * kLanes);
  };
  for (size_t run = 0; run < U::kRuns; ++run) {
    for (size_t i = 0; i < kHalfValues; i += kQuadValues) {
      read(std::integral_constant<size_t, 0>(), run, i);
      read(std::integral_constant<size_t, 1>(), run, i);
    }
  }
}

template <class Decoder, class Coded>
HWY_NOINLINE void AddBlockPanel(const WholeCall& call, const uint8_t* HWY_RESTRICT block) {
  using Sizes = LaneSizes<Decoder>;
  using U = Units<Decoder>;
  constexpr int kZero = Coded::kBits == 8 ? kSignedZero : Decoder::kZero;
  constexpr size_t kUnits = Sizes::kRuns / U::kRuns;
  HWY_ALIGN uint32_t quads[U::kTerms * U::kHalves * kHalfQuads * kPanelWidth];
  HWY_ALIGN float scales[Sizes::kScales * kPanelWidth], offsets[Sizes::kScales * kPanelWidth];
  const size_t halves = 2 * call.x->groups;
  for (size_t first = 0; first < halves; first += Sizes::kGroups, block += Sizes::kPanelBlock) {
    for (size_t j = 0; j < kPanelWidth; j += kLanes) {
      Decoder::ScalesOf(LaneBytes{block + j}, [&](size_t s, VF scale, VF offset) HWY_ATTR {
        hn::StoreU(scale, DF(), scales + s * kPanelWidth + j);
        if constexpr (Decoder::kHasOffset) hn::StoreU(offset, DF(), offsets + s * kPanelWidth + j);
      });
    }
    MoveRows(scales, Sizes::kScales);
    if constexpr (Decoder::kHasOffset) MoveRows(offsets, Sizes::kScales);
    for (size_t unit = 0; unit < kUnits; ++unit) {
      constexpr size_t kUnitBytes = CeilDiv(Sizes::kPanelBlock, kUnits);
      FetchAhead(block + unit * kUnitBytes, kUnitBytes);
      ReadUnit<Decoder, Coded>(block, unit, quads);
      for (size_t term = 0; term < U::kTerms; ++term) {
        const size_t half = Decoder::GroupOf(unit * U::kRuns, term);
        const size_t scale = half / U::kHalves * kPanelWidth;
        AddTermOfRows<Coded::kBits, kZero, U::kHalves, Decoder::kHasOffset>(
            call, first + half, quads + term * U::kHalves * kHalfQuads * kPanelWidth,
            scales + scale, offsets + scale);
      }
    }
  }
}

// ---- panels of int8 rows -----------------------------------------------------------------------

// Their elements are quads.
HWY_NOINLINE void AddInt8Panel(const WholeCall& call, const uint32_t* HWY_RESTRICT panel,
                               size_t elements, const float* HWY_RESTRICT scales) {
  constexpr size_t kQuads = 2 * kHalfQuads;
  const DU du;
  HWY_ALIGN uint32_t quads[kQuads * kPanelWidth];
  for (size_t group = 0; group < call.x->groups; ++group) {
    const size_t count = std::min(kQuads, elements - group * kQuads) * kPanelWidth;
    const uint32_t* const from = panel + group * kQuads * kPanelWidth;
    FetchAhead(reinterpret_cast<const uint8_t*>(from), count * sizeof(uint32_t));
    for (size_t at = 0; at < count; at += kLanes) {
      const VU codes = hn::LoadU(du, from + at);
      hn::Store(kDotsQuads ? hn::Xor(codes, hn::Set(du, 0x80808080u)) : codes, du, quads + at);
    }
    std::fill(quads + count, quads + kQuads * kPanelWidth, 0u);
    AddTermOfRows<8, kSignedZero, 2, false>(call, 2 * group, quads, scales, nullptr);
  }
}

// So many rows at a time have their sums in the L1 cache.
constexpr size_t kWholeChunk = 48;

void AddWholeProducts(const Step& step, size_t rows, size_t panel, float* sums) {
  const PanelSource& w = step.w;
  const uint32_t* const at = w.panels + panel * w.stride;
  for (size_t row = 0; row < rows; row += kWholeChunk) {
    const size_t count = std::min(kWholeChunk, rows - row);
    const WholeCall call = {step.whole, row, count, sums + row * kPanelWidth};
    if (w.format == WeightFormat::kI8Rows) {
      AddInt8Panel(call, at, w.stride / kPanelWidth, w.scales + panel * w.scale_stride);
      continue;
    }
    MoveRows(call.sums, count);
    ForLanes(w.format, [&]<WeightFormat kFormat>(LaneDecoder<kFormat>) HWY_ATTR {
      AddBlockPanel<LaneDecoder<kFormat>, QuadDecoder<kFormat>>(
          call, reinterpret_cast<const uint8_t*>(at));
    });
    MoveRows(call.sums, count);
  }
}

// ---- x -----------------------------------------------------------------------------------------

// Rounds a group of values, of which `count` exist, as RoundActivations does. Returns its scale.
template <class T>
HWY_INLINE float RoundGroup(const T* HWY_RESTRICT x, size_t count, int8_t* HWY_RESTRICT codes,
                            int32_t* HWY_RESTRICT sums) {
  const DF df;
  const DU du;
  constexpr size_t kVecs = kActivationGroup / kLanes;
  VF values[kVecs];
  VU magnitudes = hn::Zero(du);
  HWY_UNROLL(8)
  for (size_t v = 0; v < kVecs; ++v) {
    const size_t at = v * kLanes, left = count > at ? count - at : 0;
    values[v] = left >= kLanes ? ReadVec(x + at)
                : left == 0    ? hn::Zero(df)
                               : ReadPart(x + at, left);
    magnitudes = hn::Max(magnitudes, hn::BitCast(du, hn::Abs(values[v])));
  }
  const uint32_t magnitude = hn::ReduceMax(du, magnitudes);
  const float most = std::bit_cast<float>(magnitude);
  const bool finite = magnitude < 0x7f800000u, some = finite && most >= kLeastActivation;
  const VF inverse = hn::Set(df, some ? kLargestActivation / most : 0);
  constexpr size_t kHalf = kHalfValues / kLanes;
  HWY_UNROLL(2)
  for (size_t half = 0; half < 2; ++half) {
    VI sum = hn::Zero(DI());
    HWY_UNROLL(4)
    for (size_t v = half * kHalf; v < (half + 1) * kHalf; ++v) {
      const VI code = some ? hn::NearestInt(hn::Mul(values[v], inverse)) : hn::Zero(DI());
      sum = hn::Add(sum, code);
      const hn::Rebind<int8_t, DF> d8;
      hn::StoreU(hn::DemoteTo(d8, code), d8, codes + v * kLanes);
    }
    sums[half] = hn::ReduceSum(DI(), sum);
  }
  if (!finite) return std::numeric_limits<float>::quiet_NaN();
  return some ? most / kLargestActivation : 0;
}

template <class T>
void RoundRowsOf(const RowsOfX& x, Range r, const WholeRows& to) {
  for (size_t i = r.begin; i < r.end; ++i) {
    const T* const row = static_cast<const T*>(x.data) + i * x.ld;
    for (size_t g = 0; g < to.groups; ++g) {
      const size_t at = g * to.rows + i;
      to.scales[at] = RoundGroup(row + g * kActivationGroup, x.k - g * kActivationGroup,
                                 to.codes + at * kActivationGroup, to.sums + 2 * at);
    }
  }
}

void RoundRows(const RowsOfX& x, Range r, const WholeRows& to) {
  if (x.is_bf16) return RoundRowsOf<hwy::bfloat16_t>(x, r, to);
  RoundRowsOf<float>(x, r, to);
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
