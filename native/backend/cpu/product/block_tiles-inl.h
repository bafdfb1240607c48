// Several rows by codes that bf16 holds exactly, in tile registers: the sums of a group of values,
// which vectors scale. A register sums the products of the first and of the second halves of its
// pairs apart, and adds them to what it holds: that is the order of one row (Chain::kTiles in
// block_stream-inl.h), whose products are of the same values.
#if defined(LORA_BACKEND_CPU_PRODUCT_BLOCK_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_PRODUCT_BLOCK_TILES_INL_H_
#undef LORA_BACKEND_CPU_PRODUCT_BLOCK_TILES_INL_H_
#else
#define LORA_BACKEND_CPU_PRODUCT_BLOCK_TILES_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "backend/cpu/product/block_rows-inl.h"
#include "backend/cpu/product/block_stream-inl.h"
#include "backend/cpu/product/panels.h"
#include "backend/cpu/simd/amx-inl.h"
#include "backend/cpu/simd/simd-inl.h"
#include "core/maths/blocks.h"
#include "core/maths/ceil_div.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

#if LORA_AMX

constexpr size_t kGroupPairs = kGroupValues / 2, kGroupCodes = kGroupPairs * kPanelWidth;
static_assert(kGroupPairs == kAmxPairs / 2 && kPanelWidth == 4 * kAmxColumns);

// A run's x and codes.
struct RunTiles {
  const uint32_t *x_low, *x_high;
  size_t x_bytes;         // from row to row
  const uint32_t* codes;  // [kRunParts][kGroupPairs][kPanelWidth]
};

// Instructions name registers, and so they are constants.
#define LORA_ADD_GROUP(column, x, w, part)                                  \
  _tile_loadd(w, run.codes + (part) * kGroupCodes + (column) * kAmxColumns, \
              kPanelWidth * sizeof(uint32_t));                              \
  _tile_dpbf16ps(column, x, w)
#define LORA_STORE_GROUP(column, to) \
  _tile_stored(column, (to) + (column) * kAmxColumns, kPanelWidth * sizeof(float))

LORA_AMX_ATTR HWY_INLINE void ZeroSums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}
LORA_AMX_ATTR HWY_INLINE void StoreGroups(float* to) {
  LORA_STORE_GROUP(0, to);
  LORA_STORE_GROUP(1, to);
  LORA_STORE_GROUP(2, to);
  LORA_STORE_GROUP(3, to);
}

// sums [1 or kRunParts][kAmxRows][kPanelWidth] ← those of both groups of a run, added if kJoins.
template <bool kJoins>
LORA_AMX_ATTR HWY_NOINLINE void MultiplyRun(const RunTiles& run, float* sums) {
  HWY_FENCE;
  _tile_loadd(4, run.x_low, run.x_bytes);
  _tile_loadd(5, run.x_high, run.x_bytes);
  ZeroSums();
  LORA_ADD_GROUP(0, 4, 6, 0);
  LORA_ADD_GROUP(1, 4, 7, 0);
  LORA_ADD_GROUP(2, 4, 6, 0);
  LORA_ADD_GROUP(3, 4, 7, 0);
  if constexpr (!kJoins) {
    StoreGroups(sums);
    sums += kAmxRows * kPanelWidth;
    ZeroSums();
  }
  LORA_ADD_GROUP(0, 5, 6, 1);
  LORA_ADD_GROUP(1, 5, 7, 1);
  LORA_ADD_GROUP(2, 5, 6, 1);
  LORA_ADD_GROUP(3, 5, 7, 1);
  StoreGroups(sums);
  HWY_FENCE;
}
#undef LORA_ADD_GROUP
#undef LORA_STORE_GROUP

// sums [rows][kPanelWidth] += x · panel `panel`. All tiles of rows have one height, so that the
// registers keep their shapes: the last one may begin within the one before it, whose rows it
// leaves alone.
template <class Decoder>
HWY_NOINLINE void AddTileRows(const Step& step, size_t rows, size_t panel, TileRegisters& registers,
                              float* sums) {
  constexpr bool kOffsets = kAddsOffsets<Decoder>, kJoins = kJoinsGroups<Chain::kTiles, Decoder>;
  HWY_ALIGN float products[kRunParts * kAmxRows * kPanelWidth];
  const size_t height = CeilDiv(rows, CeilDiv(rows, kAmxRows));
  const size_t sums_stride = step.w.columns / kGroupValues;
  registers.ConfigureGroups(height);
  const SubnormalsOfTiles<true> subnormals;
  EachRun<true, Decoder>(
      step.w, panel,
      [&](size_t b, size_t run, const BlockScales<Decoder>& scales,
          const uint32_t* codes) HWY_ATTR {
        const size_t low = Decoder::GroupOf(run, 0), high = Decoder::GroupOf(run, 1);
        const size_t first = b * LaneSizes<Decoder>::kGroups;
        const size_t scale = ScaleOf<Decoder>(low), other = ScaleOf<Decoder>(high);
        for (size_t row = 0; row < rows; row += height) {
          const size_t begin = std::min(row, rows - height);
          const uint32_t* const x = step.x + begin * step.x_stride;
          MultiplyRun<kJoins>({x + (first + low) * kGroupPairs, x + (first + high) * kGroupPairs,
                               step.x_stride * sizeof(uint32_t), codes},
                              products);
          for (size_t i = row; i < begin + height; ++i) {
            const size_t group = i * sums_stride + first;
            const float x_low = kOffsets ? step.group_sums[group + low] : 0;
            const float x_high = kOffsets ? step.group_sums[group + high] : 0;
            const float* const mine = products + (i - begin) * kPanelWidth;
            HWY_UNROLL(4)
            for (size_t j = 0; j < kPanelWidth; j += kLanes) {
              const auto add = [&](const float* from, size_t of, float x_sum, VF total) HWY_ATTR {
                return AddGroup<kOffsets>(hn::LoadU(DF(), from + j), scales.scales(of) + j,
                                          scales.offsets(of) + j, x_sum, total);
              };
              float* const at = sums + i * kPanelWidth + j;
              VF total = hn::LoadU(DF(), at);
              if constexpr (kJoins) {
                total = add(mine, scale, x_low + x_high, total);
              } else {
                total = add(mine, scale, x_low, total);
                total = add(mine + kAmxRows * kPanelWidth, other, x_high, total);
              }
              hn::StoreU(total, DF(), at);
            }
          }
        }
      });
}

#else

template <class Decoder>
void AddTileRows(const Step& step, size_t rows, size_t panel, TileRegisters& registers,
                 float* sums);

#endif  // LORA_AMX

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
