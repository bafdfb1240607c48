// The product of a decode step with codes (block_lanes-inl.h, code_lanes-inl.h), on every
// instruction set: of one row, and what several rows (block_rows-inl.h) share with it. The values
// of a group share a scale and an offset, so that they are never computed:
//   y += scale·Σ code·x + offset·Σ x
// Σ code·x is summed from zero in an order that the format, the activations and the instruction set
// say (Chain), which is what makes the bits of a row those that it has beside other rows: alone,
// its codes are multiplied in registers, and several rows share codes in scratch.
#if defined(LORA_BACKEND_CPU_PRODUCT_BLOCK_STREAM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_PRODUCT_BLOCK_STREAM_INL_H_
#undef LORA_BACKEND_CPU_PRODUCT_BLOCK_STREAM_INL_H_
#else
#define LORA_BACKEND_CPU_PRODUCT_BLOCK_STREAM_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "backend/cpu/formats/code_lanes-inl.h"
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

// Whether a decode step multiplies the codes of W.
HWY_INLINE bool MultipliesCodes(const PanelSource& w) {
  return ForCodes(w.format, w.columns, [](auto) {});
}

// The order in which Σ code·x of a group is summed.
enum class Chain {
  kValues,  // products of f32 one after the other
  kPairs,   // those of pairs of bf16, by the instruction for them
  kTiles,   // as tile registers do: the first and the second halves of the pairs apart
};
// x is bf16 if kPairs. The values of a table are no bf16.
template <bool kPairs, class Decoder>
constexpr Chain kChainOf = !kPairs || !LaneTraits<Decoder>::kWhole ? Chain::kValues
                           : kMultipliesTiles                      ? Chain::kTiles
                           : LORA_DOT_BF16                         ? Chain::kPairs
                                                                   : Chain::kValues;

template <class Decoder>
constexpr bool kAddsOffsets = Decoder::kHasOffset || Decoder::kZero != 0;
// The scale of a group of a block.
template <class Decoder>
constexpr size_t ScaleOf(size_t group) {
  return group / Decoder::kGroupsPerScale;
}
// Whether the sums of both groups of a run are added before they are scaled.
template <Chain kChain, class Decoder>
constexpr bool kJoinsGroups =
    kChain == Chain::kTiles &&
    ScaleOf<Decoder>(Decoder::GroupOf(0, 0)) == ScaleOf<Decoder>(Decoder::GroupOf(0, 1));

// Where the codes of a panel are, and its scales where they lie apart.
struct PanelCodes {
  const uint8_t* blocks;
  const float* scales;
  unsigned scale_shift;
};
HWY_INLINE PanelCodes CodesOf(const PanelSource& w, size_t panel) {
  return {reinterpret_cast<const uint8_t*>(w.panels + panel * w.stride),
          w.scales ? w.scales + panel * w.scale_stride : nullptr, w.scale_shift};
}

// The scales and offsets of a block of all outputs of a panel, [kScales][kPanelWidth].
template <class Decoder>
class BlockScales {
 public:
  HWY_INLINE void Read(const PanelCodes& panel, size_t b) {
    if constexpr (LaneTraits<Decoder>::kScalesApart) {
      scales_ = panel.scales + ((b * kLaneBlockValues) >> panel.scale_shift) * kPanelWidth;
    } else {
      ReadBlock(panel.blocks + b * LaneSizes<Decoder>::kPanelBlock);
    }
  }
  HWY_INLINE const float* scales(size_t s) const {
    return (LaneTraits<Decoder>::kScalesApart ? scales_ : own_) + s * kPanelWidth;
  }
  // Of no use where kAddsOffsets is false.
  HWY_INLINE const float* offsets(size_t s) const {
    if constexpr (kAddsOffsets<Decoder>) return offsets_ + s * kPanelWidth;
    return scales(s);
  }

 private:
  HWY_INLINE void ReadBlock(const uint8_t* HWY_RESTRICT block) {
    const DF df;
    for (size_t j = 0; j < kPanelWidth; j += kLanes) {
      Decoder::ScalesOf(LaneBytes{block + j}, [&](size_t s, VF scale, VF offset) HWY_ATTR {
        const size_t at = s * kPanelWidth + j;
        hn::StoreU(scale, df, own_ + at);
        if constexpr (Decoder::kHasOffset) {
          hn::StoreU(offset, df, offsets_ + at);
        } else if constexpr (Decoder::kZero != 0) {
          hn::StoreU(hn::Mul(scale, hn::Set(df, -static_cast<float>(Decoder::kZero))), df,
                     offsets_ + at);
        }
      });
    }
  }

  static constexpr size_t kSize = LaneSizes<Decoder>::kScales * kPanelWidth;
  const float* scales_ = nullptr;
  HWY_ALIGN float own_[LaneTraits<Decoder>::kScalesApart ? 1 : kSize];
  HWY_ALIGN float offsets_[kAddsOffsets<Decoder> ? kSize : 1];
};

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

template <Chain kChain>
constexpr size_t kSumsOf = kChain == Chain::kTiles ? 2 : 1;
// Σ code·x of a group so far.
template <Chain kChain>
using ChainSums = VF[kSumsOf<kChain>];

// Two neighboring values of x, in all lanes.
template <Chain kChain>
class TwoValues {
 public:
  HWY_INLINE TwoValues(const float* values, const uint32_t* pairs, size_t at) {
    if constexpr (kChain == Chain::kPairs) {
      pair_ = hn::Set(DU(), pairs[at / 2]);
    } else {
      first_ = hn::Set(DF(), values[at]);
      second_ = hn::Set(DF(), values[at + 1]);
    }
  }

  HWY_INLINE void AddTo(ChainSums<kChain>& sums, VF first, VF second) const {
    if constexpr (kChain == Chain::kPairs) {
      const VU codes = JoinUpperHalves(hn::BitCast(DU(), first), hn::BitCast(DU(), second));
      sums[0] = MulAddElements<true>(pair_, codes, sums[0]);
    } else {
      VF& last = sums[kSumsOf<kChain> - 1];
      sums[0] = hn::MulAdd(first_, first, sums[0]);
      last = hn::MulAdd(second_, second, last);
    }
  }

 private:
  VU pair_ = hn::Zero(DU());
  VF first_ = hn::Zero(DF()), second_ = hn::Zero(DF());
};

template <Chain kChain>
HWY_INLINE VF SumOf(const ChainSums<kChain>& sums) {
  if constexpr (kSumsOf<kChain> == 2) return hn::Add(sums[0], sums[1]);
  return sums[0];
}

// Panels that one row of x is multiplied by.
struct BlockStreams {
  const float* values;      // of x
  const uint32_t* pairs;    // the same, if it is bf16
  const float* group_sums;  // of x
  PanelCodes first;         // panel
  size_t stride;            // from panel to panel, in bytes
  size_t scale_stride;
  size_t panels;
  size_t blocks;  // of a row
  float* sums;    // [panels][kPanelWidth]

  HWY_INLINE PanelCodes Panel(size_t p) const {
    return {first.blocks + p * stride, first.scales + p * scale_stride, first.scale_shift};
  }
};

// How many bytes of the panels that are read side by side are prefetched before they are used: what
// a core reads while memory answers.
constexpr size_t kBlockAhead = 4096;

// A run fetches what is read kBlockAhead bytes after it, a part with each two values: all at once
// would fill the buffers for lines that are on their way. The end of each panel fetches the
// beginning of the one that its stream goes on with.
template <class Sizes, size_t kPanels>
class RunAhead {
 public:
  HWY_INLINE RunAhead(const BlockStreams& s, size_t panel, size_t block, size_t run) {
    const size_t end = s.blocks * Sizes::kPanelBlock;
    size_t at = block * Sizes::kPanelBlock + run * kBytes + kBlockAhead / kPanels;
    if (at >= end) at += kPanels * s.stride - end;
    at_ = s.first.blocks + panel * s.stride + at;
  }
  HWY_INLINE void Fetch(size_t part) const {
    for (size_t line = part * kLines / kFetches; line < (part + 1) * kLines / kFetches; ++line) {
      hwy::Prefetch(at_ + line * kCacheLine);
    }
  }

 private:
  static constexpr size_t kBytes = CeilDiv(Sizes::kPanelBlock, Sizes::kRuns);
  static constexpr size_t kLines = CeilDiv(kBytes, kCacheLine), kFetches = kGroupValues / 2;
  const uint8_t* at_;
};

// The same for scales that lie apart from the codes, with the first block that each belongs to.
template <size_t kPanels>
HWY_INLINE void PrefetchScales(const BlockStreams& s, size_t panel, size_t block) {
  const PanelCodes codes = s.Panel(panel);
  const size_t value = block * kLaneBlockValues;
  if (value % (size_t{1} << codes.scale_shift) != 0) return;
  constexpr size_t kAhead = 2;  // rows of scales: kBlockAhead bytes of codes of 4 bits
  const float* const at =
      codes.scales + ((value >> codes.scale_shift) + kAhead / kPanels) * kPanelWidth;
  for (size_t line = 0; line < kPanelWidth * sizeof(float) / kCacheLine; ++line) {
    hwy::Prefetch(reinterpret_cast<const uint8_t*>(at) + line * kCacheLine);
  }
}

// sums += x · block b of kPanels panels from `panel` on. So many that their sums stay in registers.
template <Chain kChain, class Decoder, size_t kPanels>
HWY_INLINE void MultiplyBlock(const BlockStreams& s, size_t panel, size_t b,
                              BlockScales<Decoder> (&scales)[kPanels]) {
  using Sizes = LaneSizes<Decoder>;
  constexpr size_t kLaneBytes = LaneTraits<Decoder>::kLaneBytes;
  const uint8_t* const blocks = s.first.blocks + panel * s.stride + b * Sizes::kPanelBlock;
  float* const totals = s.sums + panel * kPanelWidth;
  const size_t first = b * Sizes::kGroups;
  HWY_UNROLL(4)
  for (size_t p = 0; p < kPanels; ++p) {
    scales[p].Read(s.Panel(panel + p), b);
    if constexpr (LaneTraits<Decoder>::kScalesApart) PrefetchScales<kPanels>(s, panel + p, b);
  }
  for (size_t run = 0; run < Sizes::kRuns; ++run) {
    ChainSums<kChain> low_sums[kPanels][kVectors], high_sums[kPanels][kVectors];
    HWY_UNROLL(4)
    for (size_t p = 0; p < kPanels; ++p) {
      ZeroAccumulators(low_sums[p]);
      ZeroAccumulators(high_sums[p]);
    }
    const size_t low = Decoder::GroupOf(run, 0), high = Decoder::GroupOf(run, 1);
    // Unrolled, the place of each code in its bytes is known.
    HWY_UNROLL(8)
    for (size_t i = 0; i < kGroupValues; i += 2) {
      const TwoValues<kChain> x_low(s.values, s.pairs, (first + low) * kGroupValues + i);
      const TwoValues<kChain> x_high(s.values, s.pairs, (first + high) * kGroupValues + i);
      HWY_UNROLL(4)
      for (size_t p = 0; p < kPanels; ++p) {
        RunAhead<Sizes, kPanels>(s, panel + p, b, run).Fetch(i / 2);
        HWY_UNROLL(4)
        for (size_t j = 0; j < kVectors; ++j) {
          const LaneBytes block = {blocks + p * s.stride + j * kLanes * kLaneBytes};
          x_low.AddTo(low_sums[p][j], Decoder::template ValueOf<0>(block, run, i),
                      Decoder::template ValueOf<0>(block, run, i + 1));
          x_high.AddTo(high_sums[p][j], Decoder::template ValueOf<1>(block, run, i),
                       Decoder::template ValueOf<1>(block, run, i + 1));
        }
      }
    }
    constexpr bool kOffsets = kAddsOffsets<Decoder>;
    const float x_low = kOffsets ? s.group_sums[first + low] : 0;
    const float x_high = kOffsets ? s.group_sums[first + high] : 0;
    const size_t scale = ScaleOf<Decoder>(low), other = ScaleOf<Decoder>(high);
    HWY_UNROLL(4)
    for (size_t p = 0; p < kPanels; ++p) {
      HWY_UNROLL(4)
      for (size_t j = 0; j < kVectors; ++j) {
        const auto add = [&](VF sum, size_t of, float x_sum, VF total) HWY_ATTR {
          return AddGroup<kOffsets>(sum, scales[p].scales(of) + j * kLanes,
                                    scales[p].offsets(of) + j * kLanes, x_sum, total);
        };
        float* const at = totals + p * kPanelWidth + j * kLanes;
        const VF low_sum = SumOf<kChain>(low_sums[p][j]), high_sum = SumOf<kChain>(high_sums[p][j]);
        VF total = hn::LoadU(DF(), at);
        if constexpr (kJoinsGroups<kChain, Decoder>) {
          total = add(hn::Add(low_sum, high_sum), scale, x_low + x_high, total);
        } else {
          total = add(high_sum, other, x_high, add(low_sum, scale, x_low, total));
        }
        hn::StoreU(total, DF(), at);
      }
    }
  }
}

// sums += x · panels, whose number is a multiple of kPanels. So many are read side by side, from
// beginning to end: a single one and the next are one run of memory.
template <Chain kChain, class Decoder, size_t kPanels>
HWY_NOINLINE void MultiplyBlockStreams(const BlockStreams& s) {
  BlockScales<Decoder> scales[kPanels];
  for (size_t p = 0; p < s.panels; p += kPanels) {
    for (size_t b = 0; b < s.blocks; ++b) {
      MultiplyBlock<kChain, Decoder, kPanels>(s, p, b, scales);
    }
  }
}

// sums [panels][kPanelWidth] += x · the panels from `panel` on, which are kStreams or 1.
template <bool kPairs>
HWY_INLINE void AddBlockStreams(const Step& step, size_t panel, size_t panels, float* sums) {
  const PanelSource& w = step.w;
  ForCodes(w.format, w.columns, [&]<class Decoder>(Decoder) HWY_ATTR {
    constexpr Chain kChain = kChainOf<kPairs, Decoder>;
    constexpr size_t kValues = LaneSizes<Decoder>::kGroups * kGroupValues;
    constexpr size_t kMax = std::max<size_t>(1, kSideBySide / (kRunParts * kSumsOf<kChain>));
    const SubnormalsOfTiles<kChain == Chain::kTiles> subnormals;
    const BlockStreams s = {step.values,
                            step.x,
                            step.group_sums,
                            CodesOf(w, panel),
                            w.stride * sizeof(uint32_t),
                            w.scale_stride,
                            panels,
                            w.columns / kValues,
                            sums};
    if (panels % kMax == 0) {
      MultiplyBlockStreams<kChain, Decoder, kMax>(s);
    } else {
      MultiplyBlockStreams<kChain, Decoder, 1>(s);
    }
  });
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
