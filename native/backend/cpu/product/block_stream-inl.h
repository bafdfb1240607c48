// The product of a decode step with blocks (block_lanes-inl.h). The values of a group share a scale
// and an offset, so that they are never computed:
//   y += scale·Σ code·x + offset·Σ x
// The codes are whole numbers that bf16 holds exactly. Σ code·x is one chain over the elements of
// the group from zero, which is what makes the bits of a row those that it has beside other rows:
// alone, its codes are multiplied in registers, and several rows share codes in scratch.
#if defined(LORA_BACKEND_CPU_PRODUCT_BLOCK_STREAM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_PRODUCT_BLOCK_STREAM_INL_H_
#undef LORA_BACKEND_CPU_PRODUCT_BLOCK_STREAM_INL_H_
#else
#define LORA_BACKEND_CPU_PRODUCT_BLOCK_STREAM_INL_H_
#endif

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "backend/cpu/formats/block_lanes-inl.h"
#include "backend/cpu/product/gemm-inl.h"
#include "backend/cpu/product/panels.h"
#include "backend/cpu/simd/amx-inl.h"
#include "backend/cpu/simd/bf16-inl.h"
#include "backend/cpu/simd/simd-inl.h"
#include "core/maths/blocks.h"
#include "core/maths/ceil_div.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// How many of kStreams panels are read side by side. SSE2, a floor that hardly any CPU of today
// needs, has code for one, because what it compiles to is by far the largest.
constexpr size_t kSideBySide = HWY_TARGET == HWY_SSE2 ? 1 : kStreams;

// Whether a decode step multiplies the codes of a format. It does so too where tile registers
// multiply the values of others: a row that is alone takes a sixth to a half of the time so.
HWY_INLINE bool MultipliesCodes(WeightFormat format) {
  return ForLanes(format, [](auto) {});
}

template <class Decoder>
constexpr bool kAddsOffsets = Decoder::kHasOffset || Decoder::kZero != 0;

// scales, offsets [kScales][kPanelWidth] ← those of a block of all outputs of a panel.
template <class Decoder>
HWY_INLINE void ReadScales(const uint8_t* HWY_RESTRICT block, float* HWY_RESTRICT scales,
                           float* HWY_RESTRICT offsets) {
  const DF df;
  for (size_t j = 0; j < kPanelWidth; j += kLanes) {
    Decoder::ScalesOf(LaneBytes{block + j}, [&](size_t s, VF scale, VF offset) HWY_ATTR {
      const size_t at = s * kPanelWidth + j;
      hn::StoreU(scale, df, scales + at);
      if constexpr (Decoder::kHasOffset) {
        hn::StoreU(offset, df, offsets + at);
      } else if constexpr (Decoder::kZero != 0) {
        hn::StoreU(hn::Mul(scale, hn::Set(df, -static_cast<float>(Decoder::kZero))), df,
                   offsets + at);
      }
    });
  }
}

// Returns total + scale·sum + offset·Σ x.
template <bool kOffsets>
HWY_INLINE VF AddGroup(VF sum, const float* scales, const float* offsets, float x_sum, VF total) {
  const DF df;
  total = hn::MulAdd(hn::LoadU(df, scales), sum, total);
  if constexpr (kOffsets) {
    total = hn::MulAdd(hn::LoadU(df, offsets), hn::Set(df, x_sum), total);
  }
  return total;
}

// ---- one row ---------------------------------------------------------------------------------

constexpr bool kDotsPairs = LORA_DOT_BF16;

// Two neighboring values of x, in all lanes.
template <bool kPairs>
class TwoValues {
 public:
  explicit HWY_INLINE TwoValues(const uint32_t* x) {
    const DF df;
    const DU du;
    if constexpr (!kPairs) {
      first_ = hn::Set(df, std::bit_cast<float>(x[0]));
      second_ = hn::Set(df, std::bit_cast<float>(x[1]));
    } else {
      pair_ = hn::Set(du, x[0]);
      first_ = hn::BitCast(df, hn::ShiftLeft<16>(pair_));
      second_ = hn::BitCast(df, hn::And(pair_, hn::Set(du, 0xffff0000u)));
    }
  }

  // Returns what MulAddElements does for elements of these two codes.
  HWY_INLINE VF MulAdd(VI first_code, VI second_code, VF sum) const {
    const DF df;
    const VF first = hn::ConvertTo(df, first_code), second = hn::ConvertTo(df, second_code);
    if constexpr (kPairs && kDotsPairs) {
      const VU codes = JoinUpperHalves(hn::BitCast(DU(), first), hn::BitCast(DU(), second));
      return MulAddElements<true>(pair_, codes, sum);
    } else {
      return hn::MulAdd(second_, second, hn::MulAdd(first_, first, sum));
    }
  }

 private:
  VU pair_ = hn::Zero(DU());
  VF first_, second_;
};

// Panels that one row of x is multiplied by at the same time.
struct BlockStreams {
  const uint32_t* x;
  const float* group_sums;  // of x
  const uint8_t* panels;    // the first
  size_t stride;            // from panel to panel, in bytes
  size_t blocks;            // of a row
  float* sums;              // [panels][kPanelWidth]
};

// How many bytes ahead of its products a panel is prefetched, about.
constexpr size_t kBlockAhead = 1024;

// Fetches what the streams read kBlockAhead bytes after a run. The end of each panel fetches the
// beginning of the one that its stream goes on with.
template <class Sizes, size_t kPanels>
HWY_INLINE void PrefetchRun(const BlockStreams& s, size_t block, size_t run) {
  constexpr size_t kRunBytes = CeilDiv(Sizes::kPanelBlock, Sizes::kRuns);
  const size_t end = s.blocks * Sizes::kPanelBlock;
  size_t at = block * Sizes::kPanelBlock + run * kRunBytes + kBlockAhead;
  if (at >= end) at += kPanels * s.stride - end;
  HWY_UNROLL(4)
  for (size_t p = 0; p < kPanels; ++p) {
    for (size_t line = 0; line < kRunBytes; line += kCacheLine) {
      hwy::Prefetch(s.panels + p * s.stride + at + line);
    }
  }
}

// sums += x · kPanels panels.
template <bool kPairs, class Decoder, size_t kPanels>
HWY_NOINLINE void MultiplyBlockStreams(const BlockStreams& s) {
  using Sizes = LaneSizes<Decoder>;
  constexpr size_t kPer = kPairs ? 2 : 1, kParts = Decoder::kParts;
  HWY_ALIGN float scales[kPanels][Sizes::kScales * kPanelWidth];
  HWY_ALIGN float offsets[kPanels][Sizes::kScales * kPanelWidth];
  for (size_t b = 0; b < s.blocks; ++b) {
    const uint8_t* const first = s.panels + b * Sizes::kPanelBlock;
    const uint32_t* const x = s.x + b * Sizes::kGroups * kGroupValues / kPer;
    for (size_t p = 0; p < kPanels; ++p) {
      ReadScales<Decoder>(first + p * s.stride, scales[p], offsets[p]);
    }
    for (size_t run = 0; run < Sizes::kRuns; ++run) {
      PrefetchRun<Sizes, kPanels>(s, b, run);
      VF sums[kParts * kPanels][kVectors];
      ZeroAccumulators(sums);
      const size_t low = Decoder::GroupOf(run, 0), high = Decoder::GroupOf(run, kParts - 1);
      // Unrolled, the place of each code in its bytes is known.
      HWY_UNROLL(8)
      for (size_t i = 0; i < kGroupValues; i += 2) {
        const TwoValues<kPairs> x_low(x + (low * kGroupValues + i) / kPer);
        const TwoValues<kPairs> x_high(x + (high * kGroupValues + i) / kPer);
        HWY_UNROLL(4)
        for (size_t p = 0; p < kPanels; ++p) {
          HWY_UNROLL(4)
          for (size_t j = 0; j < kVectors; ++j) {
            const LaneBytes block = {first + p * s.stride + j * kLanes};
            sums[p][j] = x_low.MulAdd(Decoder::template CodeOf<0>(block, run, i),
                                      Decoder::template CodeOf<0>(block, run, i + 1), sums[p][j]);
            if constexpr (kParts == 2) {
              VF& sum = sums[kPanels + p][j];
              sum = x_high.MulAdd(Decoder::template CodeOf<1>(block, run, i),
                                  Decoder::template CodeOf<1>(block, run, i + 1), sum);
            }
          }
        }
      }
      HWY_UNROLL(2)
      for (size_t part = 0; part < kParts; ++part) {
        const size_t group = part == 0 ? low : high;
        const size_t scale = group / Decoder::kGroupsPerScale * kPanelWidth;
        const float x_sum = kAddsOffsets<Decoder> ? s.group_sums[b * Sizes::kGroups + group] : 0;
        HWY_UNROLL(4)
        for (size_t p = 0; p < kPanels; ++p) {
          HWY_UNROLL(4)
          for (size_t j = 0; j < kVectors; ++j) {
            const size_t at = scale + j * kLanes;
            float* const total = s.sums + p * kPanelWidth + j * kLanes;
            hn::StoreU(
                AddGroup<kAddsOffsets<Decoder>>(sums[part * kPanels + p][j], scales[p] + at,
                                                offsets[p] + at, x_sum, hn::LoadU(DF(), total)),
                DF(), total);
          }
        }
      }
    }
  }
}

// sums [panels][kPanelWidth] += x · the panels from `panel` on, which are kStreams or 1.
template <bool kPairs>
HWY_INLINE void AddBlockStreams(const Step& step, size_t panel, size_t panels, float* sums) {
  ForLanes(step.w.format, [&]<class Decoder>(Decoder) HWY_ATTR {
    constexpr size_t kValues = LaneSizes<Decoder>::kGroups * kGroupValues;
    // So many panels that their sums stay in registers.
    constexpr size_t kMax = std::max<size_t>(1, kSideBySide / Decoder::kParts);
    const size_t stride = step.w.stride * sizeof(uint32_t);
    const auto* const first = reinterpret_cast<const uint8_t*>(step.w.panels) + panel * stride;
    BlockStreams s = {
        step.x, step.group_sums, first, stride, step.elements * (kPairs ? 2 : 1) / kValues, sums};
    for (size_t p = 0; p < panels; p += kMax) {
      s.panels = first + p * stride;
      s.sums = sums + p * kPanelWidth;
      if (panels - p >= kMax) {
        MultiplyBlockStreams<kPairs, Decoder, kMax>(s);
      } else {
        MultiplyBlockStreams<kPairs, Decoder, 1>(s);
      }
    }
  });
}

// ---- several rows ----------------------------------------------------------------------------

// dst [kParts][16 / kPer][kPanelWidth] ← the codes of a run as elements of the product.
template <bool kPairs, class Decoder>
HWY_INLINE void ExpandRunCodes(const uint8_t* HWY_RESTRICT block, size_t run,
                               uint32_t* HWY_RESTRICT dst) {
  const DU du;
  constexpr size_t kPer = kPairs ? 2 : 1, kPartSize = kGroupValues / kPer * kPanelWidth;
  for (size_t j = 0; j < kPanelWidth; j += kLanes) {
    const LaneBytes bytes = {block + j};
    const auto put = [&](size_t at, VI low, VI high) HWY_ATTR {
      const VU first = hn::BitCast(du, hn::ConvertTo(DF(), low));
      const VU second = hn::BitCast(du, hn::ConvertTo(DF(), high));
      if constexpr (kPairs) {
        hn::StoreU(JoinUpperHalves(first, second), du, dst + at + j);
      } else {
        hn::StoreU(first, du, dst + at + j);
        hn::StoreU(second, du, dst + at + kPanelWidth + j);
      }
    };
    for (size_t i = 0; i < kGroupValues; i += 2) {
      const size_t at = i / kPer * kPanelWidth;
      put(at, Decoder::template CodeOf<0>(bytes, run, i),
          Decoder::template CodeOf<0>(bytes, run, i + 1));
      if constexpr (Decoder::kParts == 2) {
        put(kPartSize + at, Decoder::template CodeOf<1>(bytes, run, i),
            Decoder::template CodeOf<1>(bytes, run, i + 1));
      }
    }
  }
}

// A group of a panel that a tile of rows is multiplied by.
struct GroupStep {
  const uint32_t* x;
  size_t x_stride;
  const uint32_t* codes;
  const float *scales, *offsets;
  const float* group_sums;  // of x, rows sums_stride apart
  size_t sums_stride;
  float* sums;  // [rows][kPanelWidth]
};

template <bool kPairs, bool kOffsets, size_t kRows>
HWY_NOINLINE void MultiplyGroup(const GroupStep& g) {
  VF acc[kRows][kVectors];
  ZeroAccumulators(acc);
  MultiplyStep<kPairs, 0>(g.x, g.x_stride, g.codes, kGroupValues / (kPairs ? 2 : 1), acc);
  HWY_UNROLL(8)
  for (size_t i = 0; i < kRows; ++i) {
    HWY_UNROLL(4)
    for (size_t j = 0; j < kVectors; ++j) {
      float* const total = g.sums + i * kPanelWidth + j * kLanes;
      const VF sum = AddGroup<kOffsets>(acc[i][j], g.scales + j * kLanes, g.offsets + j * kLanes,
                                        kOffsets ? g.group_sums[i * g.sums_stride] : 0,
                                        hn::LoadU(DF(), total));
      hn::StoreU(sum, DF(), total);
    }
  }
}

// sums [rows][kPanelWidth] += x · panel `panel`.
template <bool kPairs, class Decoder>
HWY_NOINLINE void AddBlockRowsOf(const Step& step, size_t rows, size_t panel, float* sums) {
  using Sizes = LaneSizes<Decoder>;
  constexpr size_t kPer = kPairs ? 2 : 1, kElements = kGroupValues / kPer;
  HWY_ALIGN uint32_t codes[Decoder::kParts * kElements * kPanelWidth];
  HWY_ALIGN float scales[Sizes::kScales * kPanelWidth], offsets[Sizes::kScales * kPanelWidth];
  const size_t tiles = Tiles(rows), stride = step.w.stride * sizeof(uint32_t);
  const size_t sums_stride = step.elements / kElements;
  const auto* block = reinterpret_cast<const uint8_t*>(step.w.panels) + panel * stride;
  for (size_t first = 0; first < sums_stride; first += Sizes::kGroups) {
    ReadScales<Decoder>(block, scales, offsets);
    for (size_t run = 0; run < Sizes::kRuns; ++run) {
      // The panel that is multiplied next follows this one in memory.
      constexpr size_t kRunBytes = CeilDiv(Sizes::kPanelBlock, Sizes::kRuns);
      for (size_t line = 0; line < kRunBytes; line += kCacheLine) {
        hwy::Prefetch(block + run * kRunBytes + kBlockAhead + line);
      }
      ExpandRunCodes<kPairs, Decoder>(block, run, codes);
      for (size_t part = 0; part < Decoder::kParts; ++part) {
        const size_t group = Decoder::GroupOf(run, part);
        const size_t scale = group / Decoder::kGroupsPerScale * kPanelWidth;
        for (size_t tile = 0; tile < tiles; ++tile) {
          const Range of = Split(rows, tiles, tile);
          const GroupStep g = {
              step.x + of.begin * step.x_stride + (first + group) * kElements,
              step.x_stride,
              codes + part * kElements * kPanelWidth,
              scales + scale,
              offsets + scale,
              step.group_sums + of.begin * sums_stride + first + group,
              sums_stride,
              sums + of.begin * kPanelWidth,
          };
          ForCount<kRegisterRows>(of.end - of.begin, [&](auto count) HWY_ATTR {
            MultiplyGroup<kPairs, kAddsOffsets<Decoder>, count()>(g);
          });
        }
      }
    }
    block += Sizes::kPanelBlock;
  }
}
template <bool kPairs>
HWY_INLINE void AddBlockRows(const Step& step, size_t rows, size_t panel, float* sums) {
  ForLanes(step.w.format, [&]<class Decoder>(Decoder) HWY_ATTR {
    AddBlockRowsOf<kPairs, Decoder>(step, rows, panel, sums);
  });
}

// ---- sums of x -------------------------------------------------------------------------------

// sums [rows][groups] ← the sums of each kGroupValues values of x, whose rows have that many
// groups.
void SumGroups(const uint32_t* x, size_t x_stride, size_t rows, size_t groups, bool pairs,
               float* sums) {
  const hn::FixedTag<float, 4> d;
  const hn::FixedTag<uint32_t, 4> du;
  for (size_t i = 0; i < rows; ++i) {
    for (size_t g = 0; g < groups; ++g) {
      const uint32_t* const at = x + i * x_stride + g * kGroupValues / (pairs ? 2 : 1);
      // The sum of 8 values, from two loads or one.
      const auto eight = [&](size_t half) HWY_ATTR {
        if (!pairs) {
          const auto* const values = reinterpret_cast<const float*>(at) + half * 8;
          return hn::Add(hn::LoadU(d, values), hn::LoadU(d, values + 4));
        }
        const auto both = hn::LoadU(du, at + half * 4);
        return hn::Add(hn::BitCast(d, hn::ShiftLeft<16>(both)),
                       hn::BitCast(d, hn::And(both, hn::Set(du, 0xffff0000u))));
      };
      sums[i * groups + g] = hn::ReduceSum(d, hn::Add(eight(0), eight(1)));
    }
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
