// The product of a decode step, y = x·Wᵀ for few rows of x (MultiplyRows in panels.h). Most of its
// time goes into reading the panels of W from memory, so a panel is read once for all rows, and
// what is read next is prefetched during the products.
#if defined(LORA_BACKEND_CPU_PRODUCT_DECODE_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_PRODUCT_DECODE_ROWS_INL_H_
#undef LORA_BACKEND_CPU_PRODUCT_DECODE_ROWS_INL_H_
#else
#define LORA_BACKEND_CPU_PRODUCT_DECODE_ROWS_INL_H_
#endif

#include <algorithm>
#include <span>

#include "backend/cpu/product/block_rows-inl.h"
#include "backend/cpu/product/block_stream-inl.h"
#include "backend/cpu/product/block_tiles-inl.h"
#include "backend/cpu/product/gemm-inl.h"
#include "backend/cpu/product/panel_reader-inl.h"
#include "backend/cpu/product/panels.h"
#include "backend/cpu/product/stream-inl.h"
#include "backend/cpu/simd/bf16-inl.h"
#include "backend/cpu/simd/simd-inl.h"
#include "core/maths/ceil_div.h"
#include "core/maths/dtype.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// A panel that several tiles read is cut into blocks of about this many elements, which stay in the
// L2 cache together with the block that is being prefetched. Blocks that are expanded from another
// format stay in the L1 cache.
constexpr size_t kBlockElements = 256, kExpandedElements = 64;
// Blocks are multiples of what is expanded at once, and of a tile's pairs (amx-inl.h).
constexpr size_t kBlockGranule = kAmxPairs;

// The address that is prefetched next, and by how much it grows with each element.
struct Ahead {
  uintptr_t at;
  size_t step;  // bytes
};

// acc += x [kRows rows] · w, with kLines cache lines prefetched at each element. Each row adds its
// products in the order of the elements, so its result does not depend on kRows.
template <bool kPairs, size_t kLines, size_t kRows>
HWY_INLINE void MultiplyStream(const uint32_t* HWY_RESTRICT x, size_t x_stride,
                               const uint32_t* HWY_RESTRICT w, size_t elements, Ahead ahead,
                               VF (&acc)[kRows][kVectors]) {
  const DU du;
  for (size_t e = 0; e < elements; ++e) {
    VU wv[kVectors];
    HWY_UNROLL(8)
    for (size_t j = 0; j < kVectors; ++j) wv[j] = hn::LoadU(du, w + j * kLanes);
    HWY_UNROLL(8)
    for (size_t l = 0; l < kLines; ++l) {
      hwy::Prefetch(reinterpret_cast<const std::byte*>(ahead.at + l * kCacheLine));
    }
    HWY_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      const VU xv = hn::Set(du, x[i * x_stride + e]);
      HWY_UNROLL(8)
      for (size_t j = 0; j < kVectors; ++j) {
        acc[i][j] = MulAddElements<kPairs>(xv, wv[j], acc[i][j]);
      }
    }
    w += kPanelWidth;
    ahead.at += ahead.step;
  }
}

template <bool kPairs, size_t kRows>
HWY_NOINLINE void AddLowRankTile(const uint32_t* h, size_t h_stride, const uint32_t* block,
                                 size_t elements, float* sums) {
  VF acc[kRows][kVectors];
  LoadSums(sums, acc);
  MultiplyStep<kPairs, 0>(h, h_stride, block, elements, acc);
  StoreSums(acc, sums);
}

// sums [row][kPanelWidth] += h[first, first + elements) · block, where `block` holds the same
// elements of a panel of up.
template <bool kPairs>
HWY_INLINE void AddLowRankElements(const LowRankRows& low, size_t first, const uint32_t* block,
                                   size_t elements, float* sums) {
  const size_t rows = low.end - low.begin, tiles = Tiles(rows);
  for (size_t tile = 0; tile < tiles; ++tile) {
    const Range of = Split(rows, tiles, tile);
    ForCount<kRegisterRows>(of.end - of.begin, [&](auto count) HWY_ATTR {
      AddLowRankTile<kPairs, count()>(low.h + of.begin * low.h_stride + first, low.h_stride, block,
                                      elements, sums + (low.begin + of.begin) * kPanelWidth);
    });
  }
}

// sums [row][kPanelWidth] += h · upᵀ for `columns` rows of up from `column` on. An up of f32 is
// transposed a few ranks at a time into the layout that MultiplyStep reads.
HWY_INLINE void AddLowRank(const LowRankRows& low, size_t column, size_t columns, float* sums) {
  const size_t elements = low.pairs ? CeilDiv(low.r, size_t{2}) : low.r;
  const uint32_t* const a = low.a + column * elements;
  // The up of the next panel arrives while this one is multiplied.
  const uintptr_t next = reinterpret_cast<uintptr_t>(a + kPanelWidth * elements);
  for (size_t line = 0; line < kPanelBytes * elements; line += kCacheLine) {
    hwy::Prefetch(reinterpret_cast<const std::byte*>(next + line));
  }
  if (low.pairs) return AddLowRankElements<true>(low, 0, a, elements, sums);
  constexpr size_t kRanks = 16;
  HWY_ALIGN uint32_t block[kRanks * kPanelWidth];
  if (columns < kPanelWidth) std::fill(block, block + kRanks * kPanelWidth, 0u);
  for (size_t r = 0; r < low.r; r += kRanks) {
    const size_t ranks = std::min(kRanks, low.r - r);
    TransposeElements(a + r, low.r, columns, ranks, block, kPanelWidth);
    AddLowRankElements<false>(low, r, block, ranks, sums);
  }
}

// The operands of the product of one tile of rows and one block of a panel. Between the blocks of a
// panel the sums are in `sums`; after the last one they are finished and written to y.
struct RowsTile {
  const uint32_t* x;
  size_t x_stride;
  const uint32_t* w;
  size_t elements;
  Ahead ahead;
  float* sums;
  const Product* product;
  size_t row, column;  // of y
  bool last;

  const float* FactorOf(size_t i) const {
    return product->row_factors ? product->row_factors[row + i] : product->factor;
  }
};

// Writes `rows` rows of y from the sums in memory: times the factors, plus the bias, rounded.
inline void FinishSums(const RowsTile& t, size_t rows) {
  const Product& product = *t.product;
  const size_t columns = std::min(kPanelWidth, product.n - t.column);
  for (size_t i = 0; i < rows; ++i) {
    const float *const factor = t.FactorOf(i), *const sums = t.sums + i * kPanelWidth;
    const size_t to = (t.row + i) * product.ldy + t.column;
    size_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) {
      const VF v = FinishColumns(hn::LoadU(DF(), sums + c), factor, product.bias, t.column + c);
      if (product.y_is_bf16) {
        WriteVecFast(v, static_cast<uint16_t*>(product.y) + to + c);
      } else {
        hn::StoreU(v, DF(), static_cast<float*>(product.y) + to + c);
      }
    }
    for (; c < columns; ++c) {
      const float v = FinishColumn(sums[c], factor, product.bias, t.column + c);
      if (product.y_is_bf16) {
        static_cast<uint16_t*>(product.y)[to + c] = BF16FromF32(v);
      } else {
        static_cast<float*>(product.y)[to + c] = v;
      }
    }
  }
}

template <bool kPairs, size_t kLines, size_t kRows>
HWY_NOINLINE void MultiplyRowsTile(const RowsTile& t) {
  VF acc[kRows][kVectors];
  LoadSums(t.sums, acc);
  MultiplyStream<kPairs, kLines>(t.x, t.x_stride, t.w, t.elements, t.ahead, acc);
  StoreSums(acc, t.sums);
  if (t.last) FinishSums(t, kRows);
}

// The most rows of a tile where there are several: as many as leave room for both halves of the
// pairs of W and x beside the sums.
template <bool kPairs>
constexpr size_t kSeveralRows =
    kPairs && !LORA_DOT_BF16 ? (kRegisters - 2 * kVectors - 3) / kVectors : kRegisterRows;

// Cuts a reduction into nearly equal blocks. The cuts change no result, because each block adds its
// products to the sums of the blocks before it, one after the other.
struct RowsBlocks {
  size_t count, length;
  RowsBlocks(const Step& step, bool whole) : count(1), length(step.elements) {
    if (whole) return;
    const size_t most = step.w.in_place() ? kBlockElements : kExpandedElements;
    count = std::max<size_t>(1, (step.elements + most / 2) / most);
    length = RoundUp(CeilDiv(step.elements, count), kBlockGranule);
    if (length != 0) count = CeilDiv(step.elements, length);
  }
};

// A block of a panel that all rows are multiplied by.
struct PanelBlock {
  size_t panel, first, elements;
  const uint32_t* w;
  bool last;  // of its panel
};

// sums [row][kPanelWidth] ← the low-rank changes of a panel's outputs.
HWY_INLINE void BeginSums(const Product& product, size_t rows, size_t panel,
                          std::span<const LowRankRows> low, float* sums) {
  const size_t column = panel * kPanelWidth, columns = std::min(kPanelWidth, product.n - column);
  std::fill(sums, sums + rows * kPanelWidth, 0.0f);
  for (const LowRankRows& part : low) {
    if (part.r != 0) AddLowRank(part, column, columns, sums);
  }
}

// Calls of(block) for the blocks of each panel, with the low-rank sums of the panel in scratch.
template <bool kPairs, class Of>
HWY_INLINE void EachBlock(const Product& product, size_t rows, Range panels,
                          std::span<const LowRankRows> low, const RowsBlocks& blocks,
                          const ProductScratch& scratch, const Of& of) {
  const Step& step = product.passes[0].main;
  for (size_t p = panels.begin; p < panels.end; ++p) {
    BeginSums(product, rows, p, low, scratch.sums);
    for (size_t b = 0; b < blocks.count; ++b) {
      const size_t first = b * blocks.length;
      Step block = step;
      block.w = step.w.From(first);
      block.elements = std::min(blocks.length, step.elements - first);
      of(PanelBlock{p, first, block.elements, ReadPanel<kPairs>(block, p, scratch.block),
                    b + 1 == blocks.count});
    }
  }
}

// The product of one row, by several panels at a time.
template <bool kPairs>
void MultiplyRow(const Product& product, Range panels, std::span<const LowRankRows> low,
                 const ProductScratch& scratch) {
  RowsTile t;
  t.product = &product;
  t.row = 0;
  for (size_t p = panels.begin, count; p < panels.end; p += count) {
    count = panels.end - p >= kStreams ? kStreams : 1;
    for (size_t i = 0; i < count; ++i) {
      BeginSums(product, 1, p + i, low, scratch.sums + i * kPanelWidth);
    }
    AddStreams<kPairs>(product.passes[0].main, p, count, scratch.sums);
    for (size_t i = 0; i < count; ++i) {
      t.column = (p + i) * kPanelWidth;
      t.sums = scratch.sums + i * kPanelWidth;
      FinishSums(t, 1);
    }
  }
}

// sums [rows][kPanelWidth] += x · panel `panel` of codes, for several rows.
template <bool kPairs>
void AddRowsOfCodes(const Step& step, size_t rows, size_t panel, TileRegisters& registers,
                    float* sums) {
  ForCodes(step.w.format, step.w.columns, [&]<class Decoder>(Decoder) {
    constexpr Chain kChain = kChainOf<kPairs, Decoder>;
    if constexpr (kChain == Chain::kTiles) {
      AddTileRows<Decoder>(step, rows, panel, registers, sums);
    } else {
      AddBlockRows<kChain, Decoder>(step, rows, panel, sums);
    }
  });
}

// The product of some rows by panels of codes, whose sums add(step, rows, panel, sums) makes.
template <class Add>
HWY_INLINE void MultiplyRowsOfCodes(const Product& product, size_t rows, Range panels,
                                    std::span<const LowRankRows> low, const ProductScratch& scratch,
                                    const Add& add) {
  RowsTile t;
  t.product = &product;
  t.row = 0;
  t.sums = scratch.sums;
  for (size_t p = panels.begin; p < panels.end; ++p) {
    BeginSums(product, rows, p, low, scratch.sums);
    add(product.passes[0].main, rows, p, scratch.sums);
    t.column = p * kPanelWidth;
    FinishSums(t, rows);
  }
}

template <bool kPairs>
void MultiplyRowsOf(const Product& product, size_t rows, Range panels,
                    std::span<const LowRankRows> low, const ProductScratch& scratch) {
  const Step& step = product.passes[0].main;
  const size_t tiles = rows <= kRegisterRows ? 1 : CeilDiv(rows, kSeveralRows<kPairs>);
  const bool streams = tiles == 1 && step.w.in_place();
  RowsTile t;
  t.x_stride = step.x_stride;
  t.product = &product;
  const auto multiply = [&](const PanelBlock& block) HWY_ATTR {
    t.column = block.panel * kPanelWidth;
    t.last = block.last;
    t.w = block.w;
    t.elements = block.elements;
    // A single tile of rows prefetches the panel that it reads, kStreamAhead elements ahead.
    // Several tiles each prefetch a part of the next block, so that memory is busy during all of
    // them. After the last block of a panel that is the next panel, which follows it in memory.
    const size_t stored = StoredBytes<kPairs>(step.w.format, t.elements);
    const uintptr_t here =
        reinterpret_cast<uintptr_t>(step.w.panels + block.panel * step.w.stride) +
        StoredBytes<kPairs>(step.w.format, step.w.first + block.first);
    t.ahead.step = CeilDiv(stored, std::max<size_t>(1, tiles * t.elements));
    for (size_t tile = 0; tile < tiles; ++tile) {
      const Range of = Split(rows, tiles, tile);
      t.row = of.begin;
      t.x = step.x + of.begin * step.x_stride + block.first;
      t.sums = scratch.sums + of.begin * kPanelWidth;
      ForCount<kRegisterRows>(of.end - of.begin, [&](auto count) HWY_ATTR {
        // One row is MultiplyRow's, and several tiles have more.
        if constexpr (count() > 1) {
          if (streams) {
            t.ahead.at = here + kStreamAhead * kPanelBytes;
            MultiplyRowsTile<kPairs, kPanelLines, count()>(t);
          } else {
            t.ahead.at = here + stored + tile * t.elements * t.ahead.step;
            MultiplyRowsTile<kPairs, CeilDiv(kPanelLines, 2), count()>(t);
          }
        }
      });
    }
  };
  EachBlock<kPairs>(product, rows, panels, low, RowsBlocks(step, streams), scratch, multiply);
}

// How many elements ahead of its products the first tile of rows prefetches the panel. The tiles of
// rows after it find the panel in cache.
constexpr size_t kPanelAhead = 2 * kAmxPairs * kPanelWidth;

// MultiplyRowsOf by AMX tile registers. Between the blocks of a panel the sums are in memory.
inline void MultiplyRowsOfTiles(const Product& product, size_t rows, Range panels,
                                std::span<const LowRankRows> low, const ProductScratch& scratch) {
  const Step& step = product.passes[0].main;
  const size_t tiles = CeilDiv(rows, kAmxRows);
  TileRegisters registers;
  RowsTile t;
  t.product = &product;
  const auto multiply = [&](const PanelBlock& block) {
    t.column = block.panel * kPanelWidth;
    for (size_t tile = 0; tile < tiles; ++tile) {
      const Range of = Split(rows, tiles, tile);
      t.row = of.begin;
      t.sums = scratch.sums + of.begin * kPanelWidth;
      // What follows a panel in memory, and is prefetched at its end, is the next panel.
      const bool fetches = tile == 0 && step.w.in_place();
      registers.ConfigureRow(of.end - of.begin);
      AddRowProducts({step.x + of.begin * step.x_stride + block.first, step.x_stride, block.w,
                      kPanelWidth, block.elements, fetches ? block.w + kPanelAhead : nullptr},
                     of.end - of.begin, t.sums);
      if (block.last) FinishSums(t, of.end - of.begin);
    }
  };
  const RowsBlocks blocks(step, tiles == 1 && step.w.in_place());
  EachBlock<true>(product, rows, panels, low, blocks, scratch, multiply);
}

template <bool kPairs>
void MultiplyAnyRows(const Product& product, size_t rows, Range panels,
                     std::span<const LowRankRows> low, const ProductScratch& scratch) {
  if (product.passes[0].main.whole) {
    MultiplyRowsOfCodes(product, rows, panels, low, scratch, cpu::AddWholeProducts);
  } else if (rows == 1) {
    MultiplyRow<kPairs>(product, panels, low, scratch);
  } else if (MultipliesCodes(product.passes[0].main.w)) {
    TileRegisters registers;
    MultiplyRowsOfCodes(product, rows, panels, low, scratch,
                        [&](const Step& step, size_t count, size_t panel, float* sums) {
                          AddRowsOfCodes<kPairs>(step, count, panel, registers, sums);
                        });
  } else if constexpr (kPairs && kMultipliesTiles) {
    MultiplyRowsOfTiles(product, rows, panels, low, scratch);
  } else {
    MultiplyRowsOf<kPairs>(product, rows, panels, low, scratch);
  }
}

// ---- x as products with codes read it ----------------------------------------------------------

void WidenRows(const uint32_t* x, size_t x_stride, size_t rows, size_t k, float* dst) {
  for (size_t i = 0; i < rows; ++i, dst += k) {
    const auto* const row = reinterpret_cast<const hwy::bfloat16_t*>(x + i * x_stride);
    size_t l = 0;
    for (; l + kLanes <= k; l += kLanes) hn::StoreU(ReadVec(row + l), DF(), dst + l);
    if (l < k) hn::StoreN(ReadPart(row + l, k - l), DF(), dst + l, k - l);
  }
}

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

void MultiplyRows(const Product& product, size_t rows, Range panels,
                  std::span<const LowRankRows> low, const ProductScratch& scratch) {
  if (product.operands == Operands::kPairs) {
    MultiplyAnyRows<true>(product, rows, panels, low, scratch);
  } else {
    MultiplyAnyRows<false>(product, rows, panels, low, scratch);
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
