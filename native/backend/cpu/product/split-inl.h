// Splits f32 into three bf16, with which tile registers multiply f32 (amx-inl.h):
//   x = x₀ + x₁ + x₂, where each part has the 8 bits of bf16 of what remains
// A product x·w is Σ xᵢ·wⱼ over i + j < 3, each exact in f32; what is left out is below 2⁻²² of it,
// 2⁻²⁶ on average. A weight of bf16 is its own first part, so x·w takes three products, and one of
// f16 takes five of the six. Source of the method: Henry, Tang, Heinecke, "Leveraging the bfloat16
// Artificial Intelligence Datatype For Higher-Precision Computations", ARITH 2019.
//
// Tiles take subnormal bf16 for zero. So a value below 2⁻¹¹⁰ loses low parts, and one below 2⁻¹²⁶
// is zero.
#if defined(LORA_BACKEND_CPU_PRODUCT_SPLIT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_PRODUCT_SPLIT_INL_H_
#undef LORA_BACKEND_CPU_PRODUCT_SPLIT_INL_H_
#else
#define LORA_BACKEND_CPU_PRODUCT_SPLIT_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "backend/cpu/product/panel_reader-inl.h"
#include "backend/cpu/product/panels.h"
#include "backend/cpu/simd/amx-inl.h"
#include "backend/cpu/simd/bf16-inl.h"
#include "backend/cpu/simd/simd-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// Whether operands are split, which they are where products use tile registers alone.
constexpr bool IsSplit(Operands operands) {
  return kMultipliesTiles && operands == Operands::kSplitF32;
}

// parts ← bf16 values of x that add up to v. Each is rounded, so that what is left out has either
// sign. What is not finite is the last part, which is multiplied by first parts alone: an infinity
// times a number would be NaN with parts of either sign.
HWY_INLINE void SplitX(VF v, VF (&parts)[kParts]) {
  const DF df;
  const DU du;
  const VF most = hn::BitCast(df, hn::Set(du, 0x7f7f0000u));
  const auto finite = hn::IsFinite(v);
  const auto round = [&](VF value) HWY_ATTR {
    const VU upper = hn::And(RoundNumber(value), hn::Set(du, 0xffff0000u));
    return hn::IfThenElseZero(finite, hn::BitCast(df, upper));
  };
  // The largest values would be rounded to infinity.
  parts[0] = round(hn::Min(hn::Max(v, hn::Neg(most)), most));
  const VF rest = hn::Sub(v, parts[0]);
  parts[1] = round(rest);
  parts[2] = hn::Sub(rest, parts[1]);
}

// dst [⌈k / 2·kAmxPairs⌉][kParts][kAmxPairs] ← scale·x [k], padded with zeros.
HWY_INLINE void SplitRow(const float* HWY_RESTRICT x, size_t k, float scale,
                         uint32_t* HWY_RESTRICT dst) {
  const DF df;
  const DU du;
  const DU16 dh;
  const VF s = hn::Set(df, scale);
  for (size_t at = 0; at < k; at += 2 * kLanes, dst += kParts * kAmxPairs) {
    VF low, high;
    if (at + 2 * kLanes <= k) {
      low = hn::LoadU(df, x + at);
      high = hn::LoadU(df, x + at + kLanes);
    } else {
      const size_t count = k - at;
      low = hn::LoadN(df, x + at, count);
      high = count > kLanes ? hn::LoadN(df, x + at + kLanes, count - kLanes) : hn::Zero(df);
    }
    VF lows[kParts], highs[kParts];
    SplitX(hn::Mul(s, low), lows);
    SplitX(hn::Mul(s, high), highs);
    HWY_UNROLL(3)
    for (size_t p = 0; p < kParts; ++p) {
      const auto halves = hn::ConcatOdd(dh, hn::BitCast(dh, highs[p]), hn::BitCast(dh, lows[p]));
      hn::StoreU(hn::BitCast(du, halves), du, dst + p * kAmxPairs);
    }
  }
}

// parts ← bf16 values of W that add up to v, by cutting bits off, in a third of the time: few rows
// of x do not pay for more. What is not finite becomes NaN in some part.
HWY_INLINE void SplitW(VF v, VF (&parts)[kParts]) {
  const auto cut = [](VF value) HWY_ATTR {
    return hn::BitCast(DF(), hn::And(hn::BitCast(DU(), value), hn::Set(DU(), 0xffff0000u)));
  };
  parts[0] = cut(v);
  const VF rest = hn::Sub(v, parts[0]);
  parts[1] = cut(rest);
  // Only a subnormal part has more bits than these.
  parts[2] = cut(hn::Sub(rest, parts[1]));
}

// to, to + part_stride, … ← the first `parts` parts of pairs of W whose first values are `low`.
HWY_INLINE void StoreSplitPairs(VF low, VF high, size_t parts, uint32_t* to, size_t part_stride) {
  const DU du;
  VF lows[kParts], highs[kParts];
  SplitW(low, lows);
  SplitW(high, highs);
  HWY_UNROLL(3)
  for (size_t p = 0; p < kParts; ++p) {
    if (p >= parts) break;
    const VU pairs =
        hn::Or(hn::ShiftRight<16>(hn::BitCast(du, lows[p])), hn::BitCast(du, highs[p]));
    hn::StoreU(pairs, du, to + p * part_stride);
  }
}

// dst [⌈rows / 2·kAmxPairs⌉][parts][kAmxPairs][dst_stride] ← pairs of neighboring rows of
// v [rows][kPanelWidth], in columns [0, width) of whole vectors, padded with zero rows.
HWY_INLINE void SplitRowPairs(const float* HWY_RESTRICT v, size_t rows, size_t width, size_t parts,
                              uint32_t* HWY_RESTRICT dst, size_t dst_stride) {
  const DF df;
  const size_t steps = CeilDiv(rows, 2 * kAmxPairs);
  for (size_t e = 0; e < steps * kAmxPairs; ++e) {
    const size_t at = e / kAmxPairs * parts * kAmxPairs + e % kAmxPairs;
    uint32_t* const to = dst + at * dst_stride;
    const float* const row = v + 2 * e * kPanelWidth;
    for (size_t c = 0; c < width; c += kLanes) {
      const VF low = 2 * e < rows ? hn::LoadU(df, row + c) : hn::Zero(df);
      const VF high = 2 * e + 1 < rows ? hn::LoadU(df, row + kPanelWidth + c) : hn::Zero(df);
      StoreSplitPairs(low, high, parts, to + c, kAmxPairs * dst_stride);
    }
  }
}

// How many parts the weights of a format have.
constexpr size_t PartsOf(WeightFormat format) {
  return format == WeightFormat::kBF16 ? 1 : format == WeightFormat::kF16 ? 2 : kParts;
}

// The rows of W that are split at a time: as many as a panel has outputs, which are transposed, or
// expanded, together. The pairs of a piece stay in the L1 cache.
constexpr size_t kPieceRows = 64, kPieceElements = kPieceRows / 2;
constexpr size_t kPieceSize = kParts * kPieceElements * kPanelWidth;

// dst ← the split elements from `at` on, at most kPieceElements, of a step's panel, which is not of
// bf16.
HWY_INLINE void SplitPiece(const Step& step, size_t panel, size_t at, uint32_t* dst) {
  alignas(64) uint32_t piece[(kPieceRows + 3) * kPanelWidth];
  Step rows = step;
  rows.w.first = 2 * (step.w.first + at);
  rows.elements = 2 * std::min(kPieceElements, step.elements - at);
  // Panels of f32 have no rows beyond k.
  if (step.w.in_place()) {
    rows.elements = std::min(rows.elements, step.w.stride / kPanelWidth - rows.w.first);
  }
  const auto* const from = reinterpret_cast<const float*>(ReadPanel<false>(rows, panel, piece));
  SplitRowPairs(from, rows.elements, kPanelWidth, PartsOf(step.w.format), dst, kPanelWidth);
}

// The pairs of a panel, and how many parts of them there are.
struct SplitPanel {
  const uint32_t* pairs;
  size_t parts;
};

// Returns where the split elements of a step's panel are: in W itself, or in `block`, which they
// are written to.
HWY_INLINE SplitPanel ReadSplitPanel(const Step& step, size_t panel, uint32_t* block) {
  const PanelSource& w = step.w;
  if (step.elements == 0) return {nullptr, 0};
  if (w.split) return {w.panels + panel * w.stride, kParts};
  if (w.format == WeightFormat::kBF16) {
    Step pairs = step;
    pairs.w.expanded = false;
    return {ReadPanel<true>(pairs, panel, block), 1};
  }
  const size_t parts = PartsOf(w.format);
  for (size_t at = 0; at < step.elements; at += kPieceElements) {
    SplitPiece(step, panel, at, block + at * parts * kPanelWidth);
  }
  return {block, parts};
}

// Whether up to so many rows multiply the pieces of a panel as they are split, which spares a
// block.
HWY_INLINE bool MultipliesPieces(const Step& step, size_t rows) {
  return rows <= kAmxBlockRows && step.elements != 0 && !step.w.split &&
         step.w.format != WeightFormat::kBF16;
}

constexpr size_t kPanelBlocks = CeilDiv(kPanelWidth, kAmxBlockColumns);

// The products of up to kAmxBlockRows rows with a panel, by columns.
struct PieceSums {
  alignas(64) float of[kPanelBlocks][kAmxBlockRows * kAmxBlockColumns];
};

// sums ← x · panel. The registers are configured for `rows`.
HWY_INLINE void MultiplyPieces(const Step& step, size_t panel, const uint32_t* x, size_t rows,
                               PieceSums& sums) {
  alignas(64) uint32_t piece[kPieceSize];
  TileOperands of = {nullptr, step.x_stride, nullptr, kPanelWidth, 0};
  of.parts = PartsOf(step.w.format);
  for (size_t at = 0; at < step.elements; at += kPieceElements) {
    SplitPiece(step, panel, at, piece);
    of.x = x + at * kParts;
    of.elements = std::min(kPieceElements, step.elements - at);
    for (size_t half = 0; half < kPanelBlocks; ++half) {
      float* const to = sums.of[half];
      of.w = piece + half * kAmxBlockColumns;
      MultiplyTiles(of, {}, rows, at == 0 ? nullptr : to, kAmxBlockColumns, to, kAmxBlockColumns);
    }
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
