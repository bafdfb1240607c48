// Several rows by panels of codes: the codes of a run are expanded once for all rows, which vectors
// multiply, or tile registers (block_tiles-inl.h). A row has the bits that it has alone
// (block_stream-inl.h).
#if defined(LORA_BACKEND_CPU_PRODUCT_BLOCK_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_PRODUCT_BLOCK_ROWS_INL_H_
#undef LORA_BACKEND_CPU_PRODUCT_BLOCK_ROWS_INL_H_
#else
#define LORA_BACKEND_CPU_PRODUCT_BLOCK_ROWS_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "backend/cpu/formats/code_lanes-inl.h"
#include "backend/cpu/product/block_stream-inl.h"
#include "backend/cpu/product/gemm-inl.h"
#include "backend/cpu/product/panels.h"
#include "backend/cpu/simd/bf16-inl.h"
#include "backend/cpu/simd/simd-inl.h"
#include "core/maths/blocks.h"
#include "core/maths/ceil_div.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// dst [kRunParts][16 / kPer][kPanelWidth] ← the codes of a run as elements of the product.
template <bool kPairs, class Decoder>
HWY_INLINE void ExpandRunCodes(const uint8_t* HWY_RESTRICT block, size_t run,
                               uint32_t* HWY_RESTRICT dst) {
  const DU du;
  constexpr size_t kPer = kPairs ? 2 : 1, kPartSize = kGroupValues / kPer * kPanelWidth;
  for (size_t j = 0; j < kPanelWidth; j += kLanes) {
    const LaneBytes bytes = {block + j * LaneTraits<Decoder>::kLaneBytes};
    const auto put = [&](size_t at, VF low, VF high) HWY_ATTR {
      const VU first = hn::BitCast(du, low), second = hn::BitCast(du, high);
      if constexpr (kPairs) {
        hn::StoreU(JoinUpperHalves(first, second), du, dst + at + j);
      } else {
        hn::StoreU(first, du, dst + at + j);
        hn::StoreU(second, du, dst + at + kPanelWidth + j);
      }
    };
    HWY_UNROLL(8)
    for (size_t i = 0; i < kGroupValues; i += 2) {
      const size_t at = i / kPer * kPanelWidth;
      put(at, Decoder::template ValueOf<0>(bytes, run, i),
          Decoder::template ValueOf<0>(bytes, run, i + 1));
      put(kPartSize + at, Decoder::template ValueOf<1>(bytes, run, i),
          Decoder::template ValueOf<1>(bytes, run, i + 1));
    }
  }
}

// Calls of(run, scales, codes) for the runs of a panel, which are counted over its blocks, with the
// codes of each expanded. The panel that is multiplied next follows this one in memory, and is
// prefetched at the end of it.
template <bool kPairs, class Decoder, class Of>
HWY_INLINE void EachRun(const PanelSource& w, size_t panel, const Of& of) {
  using Sizes = LaneSizes<Decoder>;
  HWY_ALIGN uint32_t codes[kRunParts * kGroupValues / (kPairs ? 2 : 1) * kPanelWidth];
  BlockScales<Decoder> scales;
  const PanelCodes source = CodesOf(w, panel);
  const size_t blocks = w.columns / (Sizes::kGroups * kGroupValues);
  for (size_t b = 0; b < blocks; ++b) {
    const uint8_t* const block = source.blocks + b * Sizes::kPanelBlock;
    scales.Read(source, b);
    for (size_t run = 0; run < Sizes::kRuns; ++run) {
      constexpr size_t kRunBytes = CeilDiv(Sizes::kPanelBlock, Sizes::kRuns);
      for (size_t line = 0; line < kRunBytes; line += kCacheLine) {
        hwy::Prefetch(block + run * kRunBytes + kBlockAhead + line);
      }
      ExpandRunCodes<kPairs, Decoder>(block, run, codes);
      of(b, run, scales, codes);
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

// sums [rows][kPanelWidth] += x · panel `panel`, by vectors.
template <Chain kChain, class Decoder>
HWY_NOINLINE void AddBlockRows(const Step& step, size_t rows, size_t panel, float* sums) {
  constexpr bool kPairs = kChain == Chain::kPairs, kOffsets = kAddsOffsets<Decoder>;
  constexpr size_t kElements = kGroupValues / (kPairs ? 2 : 1);
  const auto* const values = reinterpret_cast<const uint32_t*>(step.values);
  const uint32_t* const x = kPairs ? step.x : values;
  const size_t x_stride = kPairs ? step.x_stride : step.w.columns;
  const size_t tiles = Tiles(rows), sums_stride = step.w.columns / kGroupValues;
  EachRun<kPairs, Decoder>(
      step.w, panel,
      [&](size_t b, size_t run, const BlockScales<Decoder>& scales, const uint32_t* codes)
          HWY_ATTR {
            for (size_t part = 0; part < kRunParts; ++part) {
              const size_t in_block = Decoder::GroupOf(run, part);
              const size_t group = b * LaneSizes<Decoder>::kGroups + in_block;
              const size_t scale = ScaleOf<Decoder>(in_block);
              for (size_t tile = 0; tile < tiles; ++tile) {
                const Range of = Split(rows, tiles, tile);
                const GroupStep g = {
                    x + of.begin * x_stride + group * kElements,
                    x_stride,
                    codes + part * kElements * kPanelWidth,
                    scales.scales(scale),
                    scales.offsets(scale),
                    kOffsets ? step.group_sums + of.begin * sums_stride + group : nullptr,
                    sums_stride,
                    sums + of.begin * kPanelWidth,
                };
                ForCount<kRegisterRows>(of.end - of.begin, [&](auto count) HWY_ATTR {
                  MultiplyGroup<kPairs, kOffsets, count()>(g);
                });
              }
            }
          });
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
