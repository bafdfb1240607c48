// Multiplies tiles of bf16 pairs in memory by Intel's matrix instructions (amx-inl.h), for
// attention.
#if defined(LORA_BACKEND_CPU_AMX_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_AMX_TILE_INL_H_
#undef LORA_BACKEND_CPU_AMX_TILE_INL_H_
#else
#define LORA_BACKEND_CPU_AMX_TILE_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "backend/cpu/amx-inl.h"
#include "hwy/highway.h"

#if LORA_AMX

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// C [rows][columns] ← A [rows][depth]·B [depth][columns], or C + A·B, of pairs. Rows of B and C are
// padded to whole vectors of columns.
struct PairProduct {
  size_t rows, columns, depth;
  const uint32_t* a;
  size_t a_stride;
  const uint32_t* b;
  size_t b_stride;
  float* c;
  size_t c_stride;
  bool accumulate;
};

// The block of C at (row, column), which is whole, or has fewer than kTileRows rows. What is
// missing to whole tiles is in copies, so that nothing beyond the operands is read or written.
template <bool kTall, bool kWide>
LORA_AMX_ATTR HWY_INLINE void MultiplyBlockOfPairs(const PairProduct& p, size_t row,
                                                   size_t column) {
  constexpr size_t kRows = kTall ? kBlockTileRows : kTileRows;
  constexpr size_t kColumns = kWide ? kBlockTileColumns : kTileColumns;
  const size_t rows = std::min(p.rows - row, kRows);
  const bool few = rows < kTileRows;
  const TileOperands of = {p.a + row * p.a_stride, p.a_stride, p.b + column, p.b_stride, p.depth};
  float *const c = p.c + row * p.c_stride + column, *sums = c;
  size_t stride = p.c_stride;
  alignas(64) float copy[kTileRows * kColumns];
  if (few) {
    sums = copy;
    stride = kColumns;
    for (size_t i = 0; p.accumulate && i < rows; ++i) {
      std::memcpy(copy + i * kColumns, c + i * p.c_stride, kColumns * sizeof(float));
    }
  }
  HWY_FENCE;
  if (p.accumulate) {
    LoadTiles<kTall, kWide>(sums, stride);
  } else {
    ZeroTiles<kTall, kWide>();
  }
  size_t e = 0;
  for (; !few && e + kTilePairs <= p.depth; e += kTilePairs) {
    AddTiles<kTall, kWide>(of.x + e, of.x_stride, of.w + e * of.w_stride, of.w_stride);
  }
  for (; e < p.depth; e += kTilePairs) {
    const PaddedPairs<kRows, kColumns> rest(of, e, rows);
    AddTiles<kTall, kWide>(rest.x, kTilePairs, rest.w, kColumns);
    HWY_FENCE;  // the next copies may take the places of these
  }
  StoreTiles<kTall, kWide>(sums, stride);
  HWY_FENCE;
  for (size_t i = 0; few && i < rows; ++i) {
    std::memcpy(c + i * p.c_stride, copy + i * kColumns, kColumns * sizeof(float));
  }
}

// The caller has configured the tile registers for blocks of kBlockTileRows rows.
LORA_AMX_ATTR HWY_NOINLINE inline void MultiplyPairTiles(const PairProduct& p) {
  for (size_t column = 0; column < p.columns; column += kBlockTileColumns) {
    const bool two_columns = p.columns - column > kTileColumns;
    for (size_t row = 0, end; row < p.rows; row = end) {
      const bool two = p.rows - row >= kBlockTileRows;
      end = row + (two ? kBlockTileRows : kTileRows);
      if (two && two_columns) {
        MultiplyBlockOfPairs<true, true>(p, row, column);
      } else if (two) {
        MultiplyBlockOfPairs<true, false>(p, row, column);
      } else if (two_columns) {
        MultiplyBlockOfPairs<false, true>(p, row, column);
      } else {
        MultiplyBlockOfPairs<false, false>(p, row, column);
      }
    }
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // LORA_AMX

#endif  // include guard per target
