// Multiplies a panel by tile registers (amx-inl.h), compiled once per instruction set.
#if defined(LORA_BACKEND_CPU_PRODUCT_AMX_PANEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_PRODUCT_AMX_PANEL_INL_H_
#undef LORA_BACKEND_CPU_PRODUCT_AMX_PANEL_INL_H_
#else
#define LORA_BACKEND_CPU_PRODUCT_AMX_PANEL_INL_H_
#endif

#include <algorithm>
#include <type_traits>

#include "backend/cpu/product/panel_reader-inl.h"
#include "backend/cpu/product/panels.h"
#include "backend/cpu/product/split-inl.h"
#include "backend/cpu/simd/amx-inl.h"
#include "backend/cpu/simd/bf16-inl.h"
#include "backend/cpu/simd/simd-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// Up to kAmxBlockRows rows and kAmxBlockColumns columns of y.
struct OutputBlock {
  size_t row, rows, column, columns;
};

// Where the products of one pass go. Each pass is summed from zero and then added to the sums of
// the passes before it, because a long sum has a smaller rounding error in parts; it takes no
// longer. The sums are in y. For a y of bf16 they are f32 in scratch, and the last pass rounds
// them.
class PassOutput {
 public:
  // Of rows from `first_row` on.
  PassOutput(const Product& product, size_t pass, size_t first_row, const ProductScratch& scratch)
      : product_(product),
        pass_(product.passes[pass]),
        last_(pass + 1 == product.passes.size()),
        adds_(pass != 0 || product.accumulate),
        rounds_(product.y_is_bf16 && last_),
        first_row_(first_row),
        scratch_(scratch.sums) {}

  // Whether the products of a block are its sums, so that tiles are stored there.
  bool TakesTiles(const OutputBlock& block) const {
    const bool finishes = last_ && (product_.factor || product_.bias);
    return !adds_ && !rounds_ && !pass_.mask && !finishes && Width(block) == kAmxBlockColumns;
  }

  // Where the sums of a block are, in f32.
  float* SumsOf(const OutputBlock& block) const {
    if (!product_.y_is_bf16) return At<float>(block);
    return scratch_ + (block.row - first_row_) * kPanelWidth + block.column % kPanelWidth;
  }
  size_t sums_stride() const { return product_.y_is_bf16 ? kPanelWidth : product_.ldy; }

  RowsToWrite Writes(const OutputBlock& block) const {
    if (rounds_) return Rows(At<uint16_t>(block), product_.ldy, block);
    return Rows(SumsOf(block), sums_stride(), block);
  }

  // products: [block.rows][kAmxBlockColumns]
  void Store(const float* products, const OutputBlock& block) const {
    if (rounds_) {
      StoreTo(At<uint16_t>(block), product_.ldy, products, block);
    } else {
      StoreTo(SumsOf(block), sums_stride(), products, block);
    }
  }

 private:
  template <class T>
  T* At(const OutputBlock& block) const {
    return static_cast<T*>(product_.y) + block.row * product_.ldy + block.column;
  }

  // How many columns of a block are written: scratch has room for columns that y does not have.
  size_t Width(const OutputBlock& block) const {
    return product_.y_is_bf16 && !rounds_ ? kAmxBlockColumns : block.columns;
  }

  template <class T>
  RowsToWrite Rows(const T* at, size_t stride, const OutputBlock& block) const {
    return {reinterpret_cast<const std::byte*>(at), block.rows, Width(block) * sizeof(T),
            stride * sizeof(T)};
  }

  template <class T>
  HWY_INLINE void StoreTo(T* to, size_t stride, const float* products,
                          const OutputBlock& block) const {
    const DF df;
    const float* const sums = adds_ ? SumsOf(block) : nullptr;
    const size_t ld_sums = sums_stride(), width = Width(block);
    const float* const factor = last_ && product_.factor ? product_.factor + block.column : nullptr;
    const float* const bias = last_ && product_.bias ? product_.bias + block.column : nullptr;
    if (width == kAmxBlockColumns && !pass_.mask && !factor && !bias) {
      for (size_t i = 0; i < block.rows; ++i) {
        VF a = hn::Load(df, products + i * kAmxBlockColumns);
        VF b = hn::Load(df, products + i * kAmxBlockColumns + kLanes);
        if (sums) {
          a = hn::Add(a, hn::LoadU(df, sums + i * ld_sums));
          b = hn::Add(b, hn::LoadU(df, sums + i * ld_sums + kLanes));
        }
        WriteVecFast(a, to + i * stride);
        WriteVecFast(b, to + i * stride + kLanes);
      }
      return;
    }
    const uint8_t* const mask = pass_.mask ? pass_.mask + block.row * pass_.mask_stride : nullptr;
    for (size_t j = 0; j < width; j += kLanes) {
      const size_t count = std::min(kLanes, width - j);
      for (size_t i = 0; i < block.rows; ++i) {
        VF v = hn::Load(df, products + i * kAmxBlockColumns + j);
        if (mask) v = KeepColumns(v, mask + i * pass_.mask_stride, block.column + j);
        if (sums) v = hn::Add(v, hn::LoadN(df, sums + i * ld_sums + j, count));
        if (factor) v = hn::Mul(v, hn::LoadN(df, factor + j, count));
        if (bias) v = hn::Add(v, hn::LoadN(df, bias + j, count));
        if (count == kLanes) {
          WriteVecFast(v, to + i * stride + j);
          continue;
        }
        alignas(64) T part[kLanes];
        WriteVecFast(v, part);
        std::copy_n(part, count, to + i * stride + j);
      }
    }
  }

  const Product& product_;
  const Pass& pass_;
  const bool last_, adds_, rounds_;
  const size_t first_row_;
  float* const scratch_;  // [rows][kPanelWidth]
};

// Returns all rows of a step and one panel.
HWY_INLINE TileOperands TileOperandsOf(Operands operands, const Step& step, size_t panel,
                                       uint32_t* block) {
  TileOperands of = {step.x, step.x_stride, nullptr, kPanelWidth, step.elements};
  if (operands == Operands::kSplitF32) {
    const SplitPanel split = ReadSplitPanel(step, panel, block);
    of.w = split.pairs;
    of.parts = split.parts;
  } else {
    of.w = ReadPanel<true>(step, panel, block);
  }
  return of;
}

// Returns the operands from a row and a column of the panel on.
HWY_INLINE TileOperands OperandsAt(TileOperands of, size_t row, size_t column) {
  if (of.elements == 0) return of;
  of.x += row * of.x_stride;
  of.w += column;
  return of;
}

// Runs one pass of one panel over rows [rows.begin, rows.end).
HWY_NOINLINE inline void MultiplyPanelOfTiles(const Product& product, size_t pass_index,
                                              size_t panel, Range rows, TileRegisters& registers,
                                              const ProductScratch& scratch) {
  const Pass& pass = product.passes[pass_index];
  const PassOutput output(product, pass_index, rows.begin, scratch);
  const bool pieces =
      product.operands == Operands::kSplitF32 && MultipliesPieces(pass.main, rows.end - rows.begin);
  PieceSums piece_sums;
  if (pieces) {
    registers.ConfigureBlock(rows.end - rows.begin);
    MultiplyPieces(pass.main, panel, pass.main.x + rows.begin * pass.main.x_stride,
                   rows.end - rows.begin, piece_sums);
  }
  const TileOperands main =
      TileOperandsOf(product.operands, pieces ? Step() : pass.main, panel, scratch.block);
  const TileOperands extra = TileOperandsOf(product.operands, pass.extra, panel, nullptr);
  // What this thread reads next: the rest of the panel, or the next one, which follows it.
  const uint32_t* ahead = nullptr;
  if (main.elements != 0 && ReadsPanels(product.operands, pass.main.w)) {
    ahead = main.w + (product.y_is_bf16 ? main.elements * kPanelWidth : pass.main.w.stride);
  }
  const size_t ahead_of_block = ahead ? PrefetchedBy(main.elements) : 0;

  alignas(64) float products[kAmxBlockRows * kAmxBlockColumns];
  for (size_t row = rows.begin; row < rows.end; row += kAmxBlockRows) {
    const size_t count = std::min(kAmxBlockRows, rows.end - row);
    registers.ConfigureBlock(count);
    // The second half of the panel finds the rows of x in the L1 cache.
    for (size_t half = 0; half < kPanelWidth; half += kAmxBlockColumns, ahead += ahead_of_block) {
      const size_t column = panel * kPanelWidth + half;
      if (column >= product.n) break;
      const OutputBlock block = {row, count, column,
                                 std::min(kAmxBlockColumns, product.n - column)};
      TileOperands of_main = OperandsAt(main, row, half);
      of_main.ahead = ahead;
      of_main.writes = output.Writes(block);
      const TileOperands of_extra = OperandsAt(extra, row, half);
      const float* const from = pieces ? piece_sums.of[half / kAmxBlockColumns] : nullptr;
      if (output.TakesTiles(block)) {
        MultiplyTiles(of_main, of_extra, count, from, kAmxBlockColumns, output.SumsOf(block),
                      output.sums_stride());
      } else {
        MultiplyTiles(of_main, of_extra, count, from, kAmxBlockColumns, products, kAmxBlockColumns);
        output.Store(products, block);
      }
    }
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
