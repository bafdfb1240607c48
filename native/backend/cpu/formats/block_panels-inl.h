// Expands panels of blocks (core/maths/blocks.h) to elements of the product, to the bits of the
// scalar decoders.
#if defined(LORA_BACKEND_CPU_FORMATS_BLOCK_PANELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_FORMATS_BLOCK_PANELS_INL_H_
#undef LORA_BACKEND_CPU_FORMATS_BLOCK_PANELS_INL_H_
#else
#define LORA_BACKEND_CPU_FORMATS_BLOCK_PANELS_INL_H_
#endif

#include <algorithm>

#include "backend/cpu/formats/block_lanes-inl.h"
#include "backend/cpu/formats/pack.h"
#include "backend/cpu/simd/bf16-inl.h"
#include "backend/cpu/simd/simd-inl.h"
#include "core/maths/blocks.h"
#include "core/maths/ceil_div.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// Returns value i of a group.
template <class Decoder, size_t kPart>
HWY_INLINE VF LaneValue(const LaneBytes& block, size_t run, size_t i, VF scale, VF offset) {
  const DF df;
  const VI code = Decoder::template CodeOf<kPart>(block, run, i);
  const VI centred = Decoder::kZero == 0 ? code : hn::Sub(code, hn::Set(DI(), Decoder::kZero));
  const VF product = hn::Mul(scale, hn::ConvertTo(df, centred));
  // An addition the compiler would join with the product, which would then not be rounded.
  return Decoder::kHasOffset ? hn::MulAdd(offset, hn::Set(df, 1.0f), product) : product;
}

// dst [count / kPer][kPanelWidth] ← values [first, first + count) of a group of kLanes outputs.
template <bool kPairs, class Decoder, size_t kPart>
HWY_INLINE void ExpandGroup(const LaneBytes& block, size_t group, size_t first, size_t count,
                            VF scale, VF offset, uint32_t* HWY_RESTRICT dst) {
  const DU du;
  const size_t run = Decoder::RunOf(group);
  const auto value = [&](size_t i) HWY_ATTR {
    return LaneValue<Decoder, kPart>(block, run, first + i, scale, offset);
  };
  for (size_t i = 0; i < count; i += kPairs ? 2 : 1, dst += kPanelWidth) {
    if constexpr (kPairs) {
      hn::StoreU(PairsOf(value(i), value(i + 1)), du, dst);
    } else {
      hn::StoreU(hn::BitCast(du, value(i)), du, dst);
    }
  }
}

// dst [count][kPanelWidth] ← elements [first, first + count) of the panel at `panel`.
template <bool kPairs, class Decoder>
HWY_NOINLINE void ExpandLanes(const uint8_t* HWY_RESTRICT panel, size_t first, size_t count,
                              uint32_t* HWY_RESTRICT dst) {
  using Sizes = LaneSizes<Decoder>;
  constexpr size_t kPer = kPairs ? 2 : 1, kValues = Sizes::kGroups * kGroupValues;
  const DF df;
  HWY_ALIGN float scales[Sizes::kScales][kLanes], offsets[Sizes::kScales][kLanes];
  const size_t end = (first + count) * kPer;
  for (size_t value = first * kPer, next; value < end; value = next) {
    const size_t b = value / kValues;
    next = std::min(end, (b + 1) * kValues);
    uint32_t* const to = dst + (value / kPer - first) * kPanelWidth;
    for (size_t j = 0; j < kPanelWidth; j += kLanes) {
      const LaneBytes block = {panel + b * Sizes::kPanelBlock + j};
      Decoder::ScalesOf(block, [&](size_t s, VF scale, VF offset) HWY_ATTR {
        hn::Store(scale, df, scales[s]);
        hn::Store(offset, df, offsets[s]);
      });
      for (size_t v = value, after; v < next; v = after) {
        const size_t group = v % kValues / kGroupValues, s = group / Decoder::kGroupsPerScale;
        after = std::min(next, RoundUp(v + 1, size_t{kGroupValues}));
        const VF scale = hn::Load(df, scales[s]), offset = hn::Load(df, offsets[s]);
        uint32_t* const at = to + (v - value) / kPer * kPanelWidth + j;
        if (Decoder::PartOf(group) == 0) {
          ExpandGroup<kPairs, Decoder, 0>(block, group, v % kGroupValues, after - v, scale, offset,
                                          at);
        } else {
          ExpandGroup<kPairs, Decoder, 1>(block, group, v % kGroupValues, after - v, scale, offset,
                                          at);
        }
      }
    }
  }
}

// The same of any format. Blocks are decoded along the rows of W and transposed.
template <bool kPairs>
HWY_NOINLINE void ExpandRows(WeightFormat format, const uint8_t* HWY_RESTRICT panel, size_t first,
                             size_t count, uint32_t* HWY_RESTRICT dst) {
  constexpr size_t kPer = kPairs ? 2 : 1, kRows = 4, kValues = 64, kRow = kValues + kGroupValues;
  HWY_ALIGN float values[kRows][kRow];
  HWY_ALIGN hwy::bfloat16_t rounded[kRows][kRow];
  uint8_t blocks[4 * kMaxBlockBytes];  // a piece lies in at most four of 32 values, or two of 256
  const BlockSize& size = TraitsOf(format).block;
  const size_t bytes = static_cast<size_t>(size.bytes);
  const size_t per_block = static_cast<size_t>(size.values) / kGroupValues;
  for (size_t e = 0; e < count; e += kValues / kPer) {
    const size_t value = (first + e) * kPer, elements = std::min(kValues / kPer, count - e);
    const size_t group = value / kGroupValues, skipped = value % kGroupValues;
    const size_t groups = CeilDiv(skipped + elements * kPer, size_t{kGroupValues});
    const size_t block = group / per_block;
    const size_t taken = CeilDiv(group + groups, per_block) - block;
    for (size_t j = 0; j < kPanelWidth; j += kRows) {
      for (size_t i = 0; i < kRows; ++i) {
        CopyBlocksOf(panel, block, taken, bytes, j + i, kPanelWidth, blocks);
        DecodeGroups(format, blocks, bytes, group - block * per_block, groups, values[i]);
        if constexpr (kPairs) {
          for (size_t v = 0; v < groups * kGroupValues; v += kLanes)
            WriteVec(hn::LoadU(DF(), values[i] + v), rounded[i] + v);
        }
      }
      const void* const from = kPairs ? static_cast<const void*>(rounded[0] + skipped)
                                      : static_cast<const void*>(values[0] + skipped);
      TransposeElements(static_cast<const uint32_t*>(from), kRow / kPer, kRows, elements,
                        dst + e * kPanelWidth + j, kPanelWidth);
    }
  }
}

template <bool kPairs>
HWY_INLINE void ExpandBlocks(WeightFormat format, const uint32_t* HWY_RESTRICT panel, size_t first,
                             size_t count, uint32_t* HWY_RESTRICT dst) {
  const auto* const bytes = reinterpret_cast<const uint8_t*>(panel);
  const bool known = ForLanes(format, [&]<class Decoder>(Decoder) HWY_ATTR {
    ExpandLanes<kPairs, Decoder>(bytes, first, count, dst);
  });
  if (!known) ExpandRows<kPairs>(format, bytes, first, count, dst);
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
