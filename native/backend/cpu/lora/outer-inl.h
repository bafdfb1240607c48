// The outer products of d_up and d_down (lora_kernels.h), compiled once per instruction set.
#if defined(LORA_BACKEND_CPU_LORA_OUTER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_LORA_OUTER_INL_H_
#undef LORA_BACKEND_CPU_LORA_OUTER_INL_H_
#else
#define LORA_BACKEND_CPU_LORA_OUTER_INL_H_
#endif

#include <algorithm>
#include <cstring>
#include <span>

#include "backend/cpu/lora/lora_linear-inl.h"
#include "backend/cpu/product/split-inl.h"
#include "backend/cpu/simd/amx-inl.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

constexpr size_t kOuterRanks = kRegisters / 4;
constexpr size_t kOuterVectors = 2;
constexpr size_t kOuterWidth = kOuterVectors * kLanes;
static_assert(kOuterColumns % kOuterWidth == 0);

// Loads kOuterWidth columns of a row of f32, of which `columns` exist.
HWY_INLINE void LoadColumns(const float* row, size_t columns, VF (&v)[kOuterVectors]) {
  const DF df;
  HWY_UNROLL(2)
  for (size_t j = 0; j < kOuterVectors; ++j) {
    const size_t at = j * kLanes;
    v[j] = columns >= at + kLanes ? hn::LoadU(df, row + at)
           : columns > at         ? hn::LoadN(df, row + at, columns - at)
                                  : hn::Zero(df);
  }
}

// Loads kOuterWidth columns of a row of bf16, with zeros where the mask drops them.
template <bool kMasked>
HWY_INLINE auto LoadHalves(const uint16_t* row, const uint8_t* mask, size_t columns) {
  const DU16 dh;
  const auto halves = columns == kOuterWidth ? hn::LoadU(dh, row) : hn::LoadN(dh, row, columns);
  if constexpr (!kMasked) return halves;
  return hn::IfThenElseZero(hn::LoadMaskBits(dh, mask), halves);
}

// The sums of kRanks ranks × kOuterWidth columns stay in registers over all m rows. A step takes a
// row of f32 or, of bf16, a pair of rows.
template <bool kPairs, bool kMasked, size_t kRanks>
HWY_NOINLINE void OuterTile(const Outer& o, size_t rank, size_t column) {
  const DF df;
  const DU du;
  constexpr size_t kRows = kPairs ? 2 : 1, kSize = kPairs ? 2 : 4;
  const size_t columns = std::min(kOuterWidth, o.n - column), mask_stride = MaskStride(o.n);
  const size_t row_bytes = o.n * kSize;
  // v and z may be null where there are no rows.
  const uint32_t* v = o.m == 0 ? nullptr : o.v + rank;
  const std::byte* z = o.m == 0 ? nullptr : static_cast<const std::byte*>(o.z) + column * kSize;
  const uint8_t* mask = kMasked && o.m != 0 ? o.mask + column / 8 : nullptr;
  VF acc[kRanks][kOuterVectors];
  ZeroAccumulators(acc);
  for (size_t i = 0; i < o.m; i += kRows) {
    VU zv[kOuterVectors];
    if constexpr (kPairs) {
      const DU16 dh;
      const auto load = [&](size_t row) HWY_ATTR {
        return LoadHalves<kMasked>(reinterpret_cast<const uint16_t*>(z + row * row_bytes),
                                   kMasked ? mask + row * mask_stride : nullptr, columns);
      };
      const auto first = load(0);
      const auto second = i + 1 < o.m ? load(1) : hn::Zero(dh);
      const RowPairs pairs(first, second);
      zv[0] = pairs.lower;
      zv[1] = pairs.upper;
      hwy::Prefetch(z + 17 * row_bytes);
    } else {
      VF row[kOuterVectors];
      LoadColumns(reinterpret_cast<const float*>(z), columns, row);
      HWY_UNROLL(2)
      for (size_t j = 0; j < kOuterVectors; ++j) {
        if constexpr (kMasked) row[j] = KeepColumns(row[j], mask, j * kLanes);
        zv[j] = hn::BitCast(du, row[j]);
      }
    }
    hwy::Prefetch(z + 16 * row_bytes);
    HWY_UNROLL(8)
    for (size_t k = 0; k < kRanks; ++k) {
      const VU vv = hn::Set(du, v[k]);
      HWY_UNROLL(2)
      for (size_t j = 0; j < kOuterVectors; ++j) {
        acc[k][j] = MulAddElements<kPairs>(vv, zv[j], acc[k][j]);
      }
    }
    v += o.v_stride;
    z += kRows * row_bytes;
    if constexpr (kMasked) mask += kRows * mask_stride;
  }
  const VF scale = hn::Set(df, o.scale);
  HWY_ALIGN float sums[kRanks * kOuterWidth];
  HWY_UNROLL(8)
  for (size_t k = 0; k < kRanks; ++k) {
    HWY_UNROLL(2)
    for (size_t j = 0; j < kOuterVectors; ++j) acc[k][j] = hn::Mul(scale, acc[k][j]);
    float* to = sums + k * kOuterWidth;
    if constexpr (kPairs) {
      StoreColumns(acc[k][0], acc[k][1], to);
    } else {
      hn::Store(acc[k][0], df, to);
      hn::Store(acc[k][1], df, to + kLanes);
    }
  }
  if (o.transposed) {
    TransposeElements(reinterpret_cast<const uint32_t*>(sums), kOuterWidth, kRanks, columns,
                      reinterpret_cast<uint32_t*>(o.out + column * o.r + rank), o.r);
  } else {
    for (size_t k = 0; k < kRanks; ++k) {
      std::memcpy(o.out + (rank + k) * o.n + column, sums + k * kOuterWidth,
                  columns * sizeof(float));
    }
  }
}

template <bool kPairs, bool kMasked>
void OuterColumns(const Outer& o, Range columns) {
  for (size_t c = columns.begin; c < columns.end; c += kOuterWidth) {
    size_t k = 0;
    for (; k + kOuterRanks <= o.r; k += kOuterRanks) {
      OuterTile<kPairs, kMasked, kOuterRanks>(o, k, c);
    }
    if (kOuterRanks > 4 && k + 4 <= o.r) {
      OuterTile<kPairs, kMasked, 4>(o, k, c);
      k += 4;
    }
    if (k + 2 <= o.r) {
      OuterTile<kPairs, kMasked, 2>(o, k, c);
      k += 2;
    }
    if (k < o.r) OuterTile<kPairs, kMasked, 1>(o, k, c);
  }
}

// The ranks are rows of a product, 16 at a time, and z is a panel. Its pairs are made once for
// kOuterRankTiles tiles of ranks, and kOuterBlocks tiles of them stay in the L1 cache.
static_assert(!kMultipliesTiles || kOuterColumns == kPanelWidth);
constexpr size_t kOuterRankTiles = 4;
template <bool kSplit>
constexpr size_t kOuterBlocks = kSplit ? 2 : 4;
constexpr size_t kOuterSums = kAmxRows * kOuterColumns;

// to [blocks][kAmxPairs][kOuterColumns] ← pairs of rows of keep(z) from row `row` on, with zeros
// for what does not exist. The columns are in the order of RowPairs.
template <bool kMasked>
HWY_NOINLINE void PairOuterRows(const Outer& o, size_t row, size_t blocks, size_t column,
                                uint32_t* HWY_RESTRICT to) {
  const DU du;
  const DU16 dh;
  const size_t mask_stride = MaskStride(o.n);
  const uint16_t* const z = static_cast<const uint16_t*>(o.z) + column;
  const uint8_t* const mask = kMasked ? o.mask + column / 8 : nullptr;
  const size_t width = std::min(kOuterColumns, o.n - column);
  const size_t end = row + blocks * kAmxBlockRows;
  for (size_t i = row; i < end; i += 2, to += kOuterColumns) {
    for (size_t c = 0; c < kOuterColumns; c += kOuterWidth) {
      const size_t columns = std::min(kOuterWidth, width - std::min(width, c));
      const auto load = [&](size_t at) HWY_ATTR {
        if (at >= o.m || columns == 0) return hn::Zero(dh);
        hwy::Prefetch(z + (at + kAmxBlockRows) * o.n + c);
        return LoadHalves<kMasked>(z + at * o.n + c,
                                   kMasked ? mask + at * mask_stride + c / 8 : nullptr, columns);
      };
      const RowPairs pairs(load(i), load(i + 1));
      hn::Store(pairs.lower, du, to + c);
      hn::Store(pairs.upper, du, to + c + kLanes);
    }
  }
}

// to [blocks][kParts][kAmxPairs][kOuterColumns] ← the same of f32, split, with the columns in
// their order.
template <bool kMasked>
HWY_NOINLINE void SplitOuterRows(const Outer& o, size_t row, size_t blocks, size_t column,
                                 uint32_t* HWY_RESTRICT to) {
  const DF df;
  const size_t mask_stride = MaskStride(o.n);
  const float* const z = static_cast<const float*>(o.z) + column;
  const size_t width = std::min(kOuterColumns, o.n - column);
  for (size_t e = 0; e < blocks * kAmxPairs; ++e, to += kOuterColumns) {
    for (size_t c = 0; c < kOuterColumns; c += kLanes) {
      const auto load = [&](size_t i) HWY_ATTR {
        if (i >= o.m || c >= width) return hn::Zero(df);
        const float* const at = z + i * o.n + c;
        hwy::Prefetch(at + kAmxBlockRows * o.n);
        const VF v = width - c >= kLanes ? hn::LoadU(df, at) : hn::LoadN(df, at, width - c);
        if constexpr (!kMasked) return v;
        return KeepColumns(v, o.mask + i * mask_stride, column + c);
      };
      StoreSplitPairs(load(row + 2 * e), load(row + 2 * e + 1), kParts, to + c,
                      kAmxPairs * kOuterColumns);
    }
    if (e % kAmxPairs + 1 == kAmxPairs) to += (kParts - 1) * kAmxPairs * kOuterColumns;
  }
}

// Puts columns in the order of RowPairs into their own.
inline void OrderColumns(const float* from, float* to) {
  const DF df;
  // Blocks of 4 columns of RowPairs are in the lower and the upper vector in turn.
  alignas(64) int32_t lanes[2 * kLanes];
  for (size_t i = 0; i < 2 * kLanes; ++i) {
    lanes[i] = static_cast<int32_t>(i / 4 % 2 * kLanes + i / 8 * 4 + i % 4);
  }
  const auto first = hn::SetTableIndices(df, lanes);
  const auto second = hn::SetTableIndices(df, lanes + kLanes);
  for (size_t i = 0; i < kOuterSums; i += kOuterWidth) {
    const VF lower = hn::Load(df, from + i), upper = hn::Load(df, from + i + kLanes);
    hn::Store(hn::TwoTablesLookupLanes(df, lower, upper, first), df, to + i);
    hn::Store(hn::TwoTablesLookupLanes(df, lower, upper, second), df, to + i + kLanes);
  }
}

// Stores the sums of `ranks` ranks from `rank` on, in the order of columns.
inline void StoreOuter(const Outer& o, size_t rank, size_t ranks, size_t column, float* sums) {
  const DF df;
  const VF scale = hn::Set(df, o.scale);
  const size_t columns = std::min(kOuterColumns, o.n - column);
  for (size_t i = 0; i < ranks * kOuterColumns; i += kLanes) {
    hn::Store(hn::Mul(scale, hn::Load(df, sums + i)), df, sums + i);
  }
  if (o.transposed) {
    TransposeElements(reinterpret_cast<const uint32_t*>(sums), kOuterColumns, ranks, columns,
                      reinterpret_cast<uint32_t*>(o.out + column * o.r + rank), o.r);
    return;
  }
  for (size_t k = 0; k < ranks; ++k) {
    std::memcpy(o.out + (rank + k) * o.n + column, sums + k * kOuterColumns,
                columns * sizeof(float));
  }
}

// 16 ranks of an outer product.
struct RankTile {
  const Outer* outer;
  size_t rank;
};

// Multiplies up to kOuterRankTiles tiles of ranks by kOuterColumns columns of their z.
template <bool kSplit, bool kMasked>
void MultiplyRankTiles(std::span<const RankTile> tiles, size_t column) {
  constexpr size_t kBlocks = kOuterBlocks<kSplit>, kPartsOfZ = kSplit ? kParts : 1;
  alignas(64) uint32_t z[kBlocks * kPartsOfZ * kAmxPairs * kOuterColumns];
  alignas(64) float sums[kOuterRankTiles * kOuterSums];
  const Outer& first = *tiles[0].outer;
  const size_t stride = TiledOuterStride(first.m, first.operands);
  const size_t all_blocks = CeilDiv(first.m, kAmxBlockRows);
  std::fill_n(sums, tiles.size() * kOuterSums, 0.0f);
  for (size_t b = 0; b < all_blocks; b += kBlocks) {
    const size_t blocks = std::min(kBlocks, all_blocks - b);
    if constexpr (kSplit) {
      SplitOuterRows<kMasked>(first, b * kAmxBlockRows, blocks, column, z);
    } else {
      PairOuterRows<kMasked>(first, b * kAmxBlockRows, blocks, column, z);
    }
    for (size_t t = 0; t < tiles.size(); ++t) {
      const uint32_t* const v =
          tiles[t].outer->v + tiles[t].rank * stride + b * kPartsOfZ * kAmxPairs;
      float* const of_tile = sums + t * kOuterSums;
      TileOperands of = {v, stride, z, kOuterColumns, blocks * kAmxPairs};
      if constexpr (kSplit) {
        of.parts = kParts;
        for (size_t c = 0; c < kOuterColumns; c += kAmxBlockColumns) {
          of.w = z + c;
          MultiplyTiles(of, {}, kAmxRows, of_tile + c, kOuterColumns, of_tile + c, kOuterColumns);
        }
      } else {
        AddRowProducts(of, kAmxRows, of_tile);
      }
    }
  }
  for (size_t t = 0; t < tiles.size(); ++t) {
    const Outer& o = *tiles[t].outer;
    float* of_tile = sums + t * kOuterSums;
    alignas(64) float ordered[kOuterSums];
    if constexpr (!kSplit) {
      OrderColumns(of_tile, ordered);
      of_tile = ordered;
    }
    StoreOuter(o, tiles[t].rank, std::min(kAmxRows, o.r - tiles[t].rank), column, of_tile);
  }
}

template <bool kSplit, bool kMasked>
void OuterTiles(std::span<const Outer> outers, Range columns) {
  TileRegisters registers;
  if constexpr (kSplit) {
    registers.ConfigureBlock(kAmxRows);
  } else {
    registers.ConfigureRow(kAmxRows);
  }
  for (size_t c = columns.begin; c < columns.end; c += kOuterColumns) {
    RankTile tiles[kOuterRankTiles];
    size_t count = 0;
    const auto multiply = [&] {
      if (count != 0) MultiplyRankTiles<kSplit, kMasked>({tiles, count}, c);
      count = 0;
    };
    for (const Outer& outer : outers) {
      for (size_t rank = 0; rank < outer.r; rank += kAmxRows) {
        tiles[count++] = {&outer, rank};
        if (count == kOuterRankTiles) multiply();
      }
    }
    multiply();
  }
}

void PackOuter(const float* v, size_t v_stride, size_t m, size_t r, Operands operands,
               uint32_t* dst) {
  if (!kMultipliesTiles) return PairRows(v, v_stride, m, r, dst, r);
  const bool split = operands == Operands::kSplitF32;
  const size_t stride = TiledOuterStride(m, operands), parts = split ? kParts : 1;
  if (m % kAmxBlockRows != 0 || (split && r % kAmxRows != 0)) {
    std::fill_n(dst, OuterSize(m, r, operands), 0u);
  }
  for (size_t i = 0; i < m; i += kAmxBlockRows) {
    const size_t rows = std::min(kAmxBlockRows, m - i);
    for (size_t j = 0; j < r; j += kAmxRows) {
      const size_t ranks = std::min(kAmxRows, r - j);
      const float* const from = v + i * v_stride + j;
      uint32_t* const to = dst + j * stride + i / 2 * parts;
      if (split) {
        alignas(64) float block[kAmxRows * kAmxBlockRows];
        TransposeElements(reinterpret_cast<const uint32_t*>(from), v_stride, rows, ranks,
                          reinterpret_cast<uint32_t*>(block), kAmxBlockRows);
        for (size_t k = 0; k < ranks; ++k) {
          SplitRow(block + k * kAmxBlockRows, rows, 1, to + k * stride);
        }
      } else {
        alignas(64) uint32_t block[kAmxPairs * kAmxRows];
        PairRows(from, v_stride, rows, ranks, block, kAmxRows);
        TransposeElements(block, kAmxRows, CeilDiv(rows, size_t{2}), kAmxRows, to, stride);
      }
    }
  }
}

template <bool kMasked>
void MultiplyOutersOf(std::span<const Outer> outers, Range columns) {
  if (outers[0].operands == Operands::kF32) {
    for (const Outer& outer : outers) OuterColumns<false, kMasked>(outer, columns);
    return;
  }
  if constexpr (kMultipliesTiles) {
    if (IsSplit(outers[0].operands)) return OuterTiles<true, kMasked>(outers, columns);
    OuterTiles<false, kMasked>(outers, columns);
  } else {
    for (const Outer& outer : outers) OuterColumns<true, kMasked>(outer, columns);
  }
}

void MultiplyOuters(std::span<const Outer> outers, Range columns) {
  if (outers[0].mask) return MultiplyOutersOf<true>(outers, columns);
  MultiplyOutersOf<false>(outers, columns);
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
