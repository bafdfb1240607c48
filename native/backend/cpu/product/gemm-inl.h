// The micro-kernel of the CPU backend, compiled once per instruction set.
//
// acc [rows <= kRegisterRows][kVectors vectors] stays in registers over a whole pass. A reduction
// element costs kVectors loads of the panel and one broadcast of x per row. f32 and bf16 share
// the code except for MulAddElements: a "32-bit element" is one f32 or a pair of bf16 along the
// reduction.
//
// Every loop over acc must be unrolled (HWY_UNROLL). With one variable index, even in a
// cold branch, GCC keeps the array in memory and stores every accumulator in each step,
// which is 2.7 times slower.
#if defined(LORA_BACKEND_CPU_PRODUCT_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_PRODUCT_GEMM_INL_H_
#undef LORA_BACKEND_CPU_PRODUCT_GEMM_INL_H_
#else
#define LORA_BACKEND_CPU_PRODUCT_GEMM_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include "backend/cpu/product/amx_panel-inl.h"
#include "backend/cpu/product/panel_reader-inl.h"
#include "backend/cpu/product/panels.h"
#include "backend/cpu/product/split-inl.h"
#include "backend/cpu/simd/amx-inl.h"
#include "backend/cpu/simd/bf16-inl.h"
#include "backend/cpu/simd/simd-inl.h"
#include "core/maths/dtype.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// acc += x [kRows rows] · panel. The panel is prefetched kAhead elements before it is used.
template <bool kPairs, size_t kAhead, size_t kRows>
HWY_INLINE void MultiplyStep(const uint32_t* HWY_RESTRICT x, size_t x_stride,
                             const uint32_t* HWY_RESTRICT w, size_t elements,
                             VF (&acc)[kRows][kVectors]) {
  const DU du;
  for (size_t e = 0; e < elements; ++e) {
    VU wv[kVectors];
    HWY_UNROLL(8)
    for (size_t j = 0; j < kVectors; ++j) {
      wv[j] = hn::LoadU(du, w + j * kLanes);
      if constexpr (kAhead > 0) hwy::Prefetch(w + kAhead * kPanelWidth + j * kLanes);
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
  }
}

// Whether the values of bf16 pairs are multiplied as f32. Where no instruction multiplies pairs,
// the registers do not hold both halves of x and W beside the sums. The products and the order of
// the sums are those of MulAddElements.
constexpr bool kWidensPairs = !LORA_DOT_BF16 && !kMultipliesTiles;

// to [2·elements][kPanelWidth] ← the values of a panel of pairs.
HWY_INLINE void WidenPanel(const uint32_t* HWY_RESTRICT pairs, size_t elements,
                           uint32_t* HWY_RESTRICT to) {
  ExpandElements<false>(WeightFormat::kBF16, pairs, {}, 0, 2 * elements, to, kExpandAhead);
}

// So many pairs of each row of x are widened at a time. They stay in the L1 cache.
constexpr size_t kWidenedPairs = 64;

// acc += x [kRows rows] · panel, where the panel of pairs has been widened to `w`.
template <size_t kRows>
HWY_INLINE void MultiplyWidened(const uint32_t* HWY_RESTRICT x, size_t x_stride,
                                const uint32_t* HWY_RESTRICT w, size_t elements,
                                VF (&acc)[kRows][kVectors]) {
  HWY_ALIGN uint32_t wide[kRows][2 * kWidenedPairs];
  for (size_t first = 0; first < elements; first += kWidenedPairs) {
    const size_t count = 2 * std::min(kWidenedPairs, elements - first);
    for (size_t i = 0; i < kRows; ++i) {
      const auto* const from = reinterpret_cast<const hwy::bfloat16_t*>(x + i * x_stride + first);
      const auto put = [&](VF values, size_t at)
                           HWY_ATTR { hn::Store(hn::BitCast(DU(), values), DU(), wide[i] + at); };
      size_t at = 0;
      for (; at + kLanes <= count; at += kLanes) put(ReadVec(from + at), at);
      if (at < count) put(ReadPart(from + at, count - at), at);
    }
    MultiplyStep<false, 8>(wide[0], 2 * kWidenedPairs, w + 2 * first * kPanelWidth, count, acc);
  }
}

// The x of a tile's rows and the panel that they are multiplied by.
struct TileStep {
  const uint32_t* x;
  size_t x_stride;
  const uint32_t* w;
  size_t elements;
};

// One tile of one pass: its operands, and where its sums go.
struct Tile {
  TileStep main, extra;
  const uint8_t* mask;         // at the tile's first row; or null
  size_t mask_stride, column;  // the tile's first column
  size_t columns;              // of the panel, <= kPanelWidth
  float* sums;                 // read if `add`; written unless y_bf16
  size_t ld_sums;
  bool add;
  const float* factor;  // at the tile's first column; only with the last pass
  const float* bias;    // likewise
  uint16_t* y_bf16;     // written with the last pass
  size_t ldy;
};

// Return factor·sum + bias for a vector of columns from `at` on, or for one. Either may be null.
HWY_INLINE VF FinishColumns(VF sum, const float* factor, const float* bias, size_t at) {
  const DF df;
  if (factor) sum = hn::Mul(sum, hn::LoadU(df, factor + at));
  if (bias) sum = hn::Add(sum, hn::LoadU(df, bias + at));
  return sum;
}
HWY_INLINE float FinishColumn(float sum, const float* factor, const float* bias, size_t at) {
  if (factor) sum *= factor[at];
  if (bias) sum += bias[at];
  return sum;
}

template <bool kPairs, size_t kRows>
HWY_NOINLINE void MultiplyTile(const Tile& t) {
  const DF df;
  VF acc[kRows][kVectors];
  ZeroAccumulators(acc);
  if (t.add) {
    HWY_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      HWY_UNROLL(8)
      for (size_t j = 0; j < kVectors; ++j) hwy::Prefetch(t.sums + i * t.ld_sums + j * kLanes);
    }
  }
  if constexpr (kPairs && kWidensPairs) {
    MultiplyWidened(t.main.x, t.main.x_stride, t.main.w, t.main.elements, acc);
  } else {
    MultiplyStep<kPairs, 8>(t.main.x, t.main.x_stride, t.main.w, t.main.elements, acc);
  }
  if (t.extra.elements != 0) {
    MultiplyStep<kPairs, 0>(t.extra.x, t.extra.x_stride, t.extra.w, t.extra.elements, acc);
  }
  if (t.mask) {
    HWY_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      HWY_UNROLL(8)
      for (size_t j = 0; j < kVectors; ++j) {
        acc[i][j] = KeepColumns(acc[i][j], t.mask + i * t.mask_stride, t.column + j * kLanes);
      }
    }
  }
  if (HWY_LIKELY(t.columns == kPanelWidth)) {
    HWY_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      HWY_UNROLL(8)
      for (size_t j = 0; j < kVectors; ++j) {
        VF v = acc[i][j];
        float* sum = t.sums + i * t.ld_sums + j * kLanes;
        if (t.add) v = hn::Add(v, hn::LoadU(df, sum));
        v = FinishColumns(v, t.factor, t.bias, j * kLanes);
        if (t.y_bf16) {
          WriteVecFast(v, t.y_bf16 + i * t.ldy + j * kLanes);
        } else {
          hn::StoreU(v, df, sum);
        }
      }
    }
  } else {
    HWY_ALIGN float spill[kRows * kPanelWidth];
    HWY_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      HWY_UNROLL(8)
      for (size_t j = 0; j < kVectors; ++j) {
        hn::Store(acc[i][j], df, spill + i * kPanelWidth + j * kLanes);
      }
    }
    for (size_t i = 0; i < kRows; ++i) {
      for (size_t c = 0; c < t.columns; ++c) {
        float v = spill[i * kPanelWidth + c];
        if (t.add) v += t.sums[i * t.ld_sums + c];
        v = FinishColumn(v, t.factor, t.bias, c);
        if (t.y_bf16) {
          t.y_bf16[i * t.ldy + c] = BF16FromF32(v);
        } else {
          t.sums[i * t.ld_sums + c] = v;
        }
      }
    }
  }
}

// Fetches the beginning of some rows that a step reads next; the hardware then goes on with them.
HWY_INLINE void PrefetchRows(const Step& step, Range rows) {
  if (step.elements == 0) return;
  for (size_t i = rows.begin; i < rows.end; ++i) {
    const uint32_t* row = step.x + i * step.x_stride;
    hwy::Prefetch(row);
    hwy::Prefetch(reinterpret_cast<const std::byte*>(row) + kCacheLine);
  }
}

// Runs one pass of one panel over row tiles.
template <bool kPairs>
void MultiplyPanel(const Product& product, size_t pass_index, size_t panel, size_t rows,
                   Range tiles, const ProductScratch& scratch) {
  const Pass& pass = product.passes[pass_index];
  const bool last = pass_index + 1 == product.passes.size();
  const size_t all = Tiles(rows), column = panel * kPanelWidth;
  const size_t row_begin = Split(rows, all, tiles.begin).begin;
  Tile t;
  t.main = {nullptr, pass.main.x_stride, ReadPanel<kPairs>(pass.main, panel, scratch.block),
            pass.main.elements};
  if constexpr (kPairs && kWidensPairs) {
    uint32_t* const wide = scratch.block + kBlockRows * kPanelWidth;
    WidenPanel(t.main.w, t.main.elements, wide);
    t.main.w = wide;
  }
  t.extra = {nullptr, pass.extra.x_stride, ReadPanel<kPairs>(pass.extra, panel, nullptr),
             pass.extra.elements};
  t.mask_stride = pass.mask_stride;
  t.column = column;
  t.columns = std::min(kPanelWidth, product.n - column);
  t.add = pass_index != 0 || product.accumulate;
  t.factor = last && product.factor ? product.factor + column : nullptr;
  t.bias = last && product.bias ? product.bias + column : nullptr;
  for (size_t tile = tiles.begin; tile < tiles.end; ++tile) {
    const Range r = Split(rows, all, tile);
    t.main.x = pass.main.x + r.begin * pass.main.x_stride;
    if (tile + 1 < tiles.end) PrefetchRows(pass.main, Split(rows, all, tile + 1));
    if (pass.extra.elements != 0) t.extra.x = pass.extra.x + r.begin * pass.extra.x_stride;
    t.mask = pass.mask ? pass.mask + r.begin * pass.mask_stride : nullptr;
    if (product.y_is_bf16) {
      t.sums = scratch.sums + (r.begin - row_begin) * kPanelWidth;
      t.ld_sums = kPanelWidth;
      t.ldy = product.ldy;
      t.y_bf16 =
          last ? static_cast<uint16_t*>(product.y) + r.begin * product.ldy + column : nullptr;
    } else {
      t.sums = static_cast<float*>(product.y) + r.begin * product.ldy + column;
      t.ld_sums = product.ldy;
      t.ldy = 0;
      t.y_bf16 = nullptr;
    }
    ForCount<kRegisterRows>(r.end - r.begin,
                            [&](auto count) HWY_ATTR { MultiplyTile<kPairs, count()>(t); });
  }
}

// Calls of(pass, panel) for the passes of each panel.
template <class Of>
HWY_INLINE void EachPass(const Product& product, Range panels, const Of& of) {
  const size_t passes = product.passes.size();
  if (product.y_is_bf16) {
    // The f32 sums of one panel stay in cache over all passes and are rounded once at the end.
    for (size_t p = panels.begin; p < panels.end; ++p) {
      for (size_t i = 0; i < passes; ++i) of(i, p);
    }
  } else {
    // y itself holds the sums; a block of x stays in cache over all panels.
    for (size_t i = 0; i < passes; ++i) {
      for (size_t p = panels.begin; p < panels.end; ++p) of(i, p);
    }
  }
}

void MultiplyPanels(const Product& product, size_t rows, Range tiles, Range panels,
                    const ProductScratch& scratch) {
  if (product.operands == Operands::kF32) {
    return EachPass(product, panels, [&](size_t pass, size_t panel) {
      MultiplyPanel<false>(product, pass, panel, rows, tiles, scratch);
    });
  }
  if constexpr (kMultipliesTiles) {
    TileRegisters registers;
    const size_t all = Tiles(rows);
    const Range range = {Split(rows, all, tiles.begin).begin, Split(rows, all, tiles.end - 1).end};
    EachPass(product, panels, [&](size_t pass, size_t panel) {
      MultiplyPanelOfTiles(product, pass, panel, range, registers, scratch);
    });
  } else {
    EachPass(product, panels, [&](size_t pass, size_t panel) {
      MultiplyPanel<true>(product, pass, panel, rows, tiles, scratch);
    });
  }
}

// ---- x as 32-bit elements --------------------------------------------------------------------

void CopyElements(const void* x, bool x_is_bf16, size_t ldx, size_t rows, size_t k,
                  Operands operands, uint32_t* dst, size_t dst_stride) {
  for (size_t i = 0; i < rows; ++i) {
    uint32_t* to = dst + i * dst_stride;
    if (IsSplit(operands)) {
      SplitRow(static_cast<const float*>(x) + i * ldx, k, 1, to);
    } else if (operands == Operands::kF32) {
      std::memcpy(to, static_cast<const float*>(x) + i * ldx, k * sizeof(float));
    } else if (x_is_bf16) {
      if (k % 2 != 0) to[k / 2] = 0;
      std::memcpy(to, static_cast<const uint16_t*>(x) + i * ldx, k * sizeof(uint16_t));
    } else {
      RowToPairsFast(static_cast<const float*>(x) + i * ldx, k, to);
    }
  }
}

size_t PanelWidth() { return kPanelWidth; }

bool MultipliesTiles() { return kMultipliesTiles; }

bool WidensPairs() { return kWidensPairs; }

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
