// lora_linear adds these inner loops to the matrix product (panels.h): the narrow products with up
// and down, the repacking of both, the outer products of the gradients, and dropout masks. No other
// op includes this file.
//
// up [out, r] and down [r, in] are row-major f32 masters that change every step, so nothing derived
// from them is kept between calls. Where activations are bf16, the k-steps that the big product
// runs for LoRA round up, down and the low-rank vectors to bf16, and so do the products of the
// gradients; h = x·downᵀ alone reads down in f32. The table of a decode step may name copies in
// bf16 (core/ops/delta_table.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "backend/cpu/product/panels.h"
#include "backend/cpu/runtime/context.h"
#include "core/maths/ceil_div.h"
#include "core/ops/ops.h"

namespace lora::cpu {

// Padded low-rank vectors have a multiple of this many columns, which is the widest vector, and a
// tile.
constexpr size_t kRankGranule = kAmxColumns;
inline size_t PaddedRank(size_t r) { return RoundUp(r, kRankGranule); }

// Returns how many k-steps the big product runs for LoRA: whole tiles where it multiplies those.
inline size_t RankElements(size_t r, Operands operands) {
  if (operands == Operands::kF32) return r;
  const size_t elements = CeilDiv(r, size_t{2});
  return MultipliesTiles() ? RoundUp(elements, kRankGranule) : elements;
}
// Returns how many 32-bit elements in memory those are, in a row or for an output.
inline size_t RankSize(size_t r, Operands operands) {
  return RankElements(r, operands) * (operands == Operands::kSplitF32 ? kParts : 1);
}

// Returns the source of panels that PackUpPanel or PackDownPanel wrote.
inline PanelSource RankPanels(const uint32_t* panels, size_t r, Operands operands) {
  PanelSource source;
  source.panels = panels;
  source.stride = RankSize(r, operands) * PanelWidth();
  source.split = operands == Operands::kSplitF32;
  return source;
}

// Returns the size of up or down as MultiplyUpTransposed reads it, with a reduction over k.
inline size_t NarrowSize(size_t k, size_t r, Operands operands) {
  const size_t elements = CeilDiv(k, ValuesPerElement(operands));
  if (operands != Operands::kSplitF32) return elements * PaddedRank(r);
  return RoundUp(elements, kAmxPairs) * kParts * PaddedRank(r);
}

// Whether the narrow products use tile registers, and how many rows they take at a time.
inline bool NarrowTiles(Operands operands) {
  return operands != Operands::kF32 && MultipliesTiles();
}
inline size_t NarrowRows(Operands operands) {
  return NarrowTiles(operands) ? kAmxBlockRows : kRegisterRows;
}

// A dropout mask has a bit per element, set where the element is kept. Its rows are MaskStride
// bytes, whose end may be read and written past the columns.
inline size_t MaskStride(size_t columns) { return ((columns + 7) / 8 + 15) / 16 * 16 + 16; }

// Writes the mask of rows [rows.begin, rows.end) of x [.., columns]; mask row 0 is row rows.begin.
void DropoutMask(const Dropout& dropout, Range rows, size_t columns, uint8_t* mask);

// h [rows, r] (stride r) ← scale · keep(x) [rows, k] · down [r, k]ᵀ. `mask` may be null.
void MultiplyDown(const void* x, bool x_is_bf16, size_t rows, size_t k, const uint8_t* mask,
                  const float* b, size_t r, float scale, float* h);
// The same of bf16 x and down, whose values are multiplied in pairs.
void MultiplyDownPairs(const uint16_t* x, size_t rows, size_t k, const uint8_t* mask,
                       const uint16_t* b, size_t r, float scale, float* h);

// u [rows <= NarrowRows(operands), r_padded] (+)= g · up. A row of g is `elements` elements of the
// product, and up is [elements, r_padded] of f32 or of NarrowRowsOf. Where the products are those
// of tiles, h is computed here too, from x and down (NarrowColumnsOf).
void MultiplyUpTransposed(const uint32_t* g, size_t g_stride, Operands operands, size_t rows,
                          size_t elements, const uint32_t* a, size_t r_padded, bool add, float* u);

// dst [rows][dst_stride] ← keep(x), of pairs or split f32. Row 0 of the mask is that of x.
void KeepElements(const uint32_t* x, size_t x_stride, Operands operands, size_t rows,
                  size_t elements, const uint8_t* mask, size_t mask_stride, uint32_t* dst,
                  size_t dst_stride);

// dst [NarrowSize(n, r)] ← up [n, r], with pairs of neighboring rows, rounded to bf16 or split.
void NarrowRowsOf(const float* a, size_t n, size_t r, Operands operands, uint32_t* dst);
// dst [NarrowSize(k, r)] ← down [r, k] transposed, with pairs of neighboring columns, rounded to
// bf16 or split.
void NarrowColumnsOf(const float* b, size_t r, size_t k, Operands operands, uint32_t* dst);

// dst [⌈rows / 2⌉][dst_stride] ← pairs of neighboring rows of v [rows, columns], rounded to bf16.
// What is missing to whole pairs and to dst_stride >= columns is zero.
void PairRows(const float* v, size_t v_stride, size_t rows, size_t columns, uint32_t* dst,
              size_t dst_stride);

// dst [rows][dst_stride] ← scale · v [rows, r] as elements of the product. Rows of v are v_stride
// apart. What is missing to whole pairs and to dst_stride is zero.
void ScaleToElements(const float* v, size_t v_stride, size_t rows, size_t r, float scale,
                     Operands operands, uint32_t* dst, size_t dst_stride);

// Pack panel `panel` of up [n, r] or of downᵀ [n = in, r] as a product reads it, of
// RankElements(r, operands). dst is the first panel's address.
void PackUpPanel(const float* a, size_t n, size_t r, Operands operands, size_t panel,
                 uint32_t* dst);
void PackDownPanel(const float* b, size_t n, size_t r, Operands operands, size_t panel,
                   uint32_t* dst);

//   out = scale · v [m, r]ᵀ · keep(z) [m, n]
// for columns [columns.begin, columns.end) of z, where begin is a multiple of kOuterColumns. out is
// [r, n], or [n, r] if `transposed`. Rows are summed in order.
constexpr size_t kOuterColumns = 64;
struct Outer {
  Operands operands = Operands::kF32;  // kPairs: z is bf16, else f32
  const uint32_t* v = nullptr;         // of PackOuter, or rows of f32 that are v_stride apart
  size_t v_stride = 0;
  size_t m = 0, r = 0, n = 0;
  float scale = 1;
  const void* z = nullptr;
  const uint8_t* mask = nullptr;  // rows of MaskStride(n), or null
  float* out = nullptr;
  bool transposed = false;
};
// Computes the outer products of some v with the same z and mask, which tiles read once for all.
void MultiplyOuters(std::span<const Outer> outers, Range columns);

// dst [OuterSize(m, r)] ← pairs of neighboring rows of v [m, r], rounded to bf16 or split, as
// MultiplyOuters reads them: [⌈m / 2⌉][r], or for tiles transposed, [PaddedRank(r)] rows.
void PackOuter(const float* v, size_t v_stride, size_t m, size_t r, Operands operands,
               uint32_t* dst);
// Rows of whole tiles are an odd number of cache lines apart, so that they do not share cache sets.
inline size_t TiledOuterStride(size_t m, Operands operands) {
  const size_t parts = operands == Operands::kSplitF32 ? kParts : 1;
  return (CeilDiv(m, kAmxBlockRows) | 1) * parts * kAmxBlockRows / 2;
}
inline size_t OuterSize(size_t m, size_t r, Operands operands) {
  if (!NarrowTiles(operands)) return CeilDiv(m, size_t{2}) * r;
  return PaddedRank(r) * TiledOuterStride(m, operands);
}

}  // namespace lora::cpu
