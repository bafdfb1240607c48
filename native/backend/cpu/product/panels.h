// The inner product of the CPU backend multiplies row tiles by packed panels. Only gemm and
// lora_linear use it; other ops call Gemm (gemm.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "backend/cpu/formats/pack.h"
#include "backend/cpu/product/whole_numbers.h"
#include "backend/cpu/runtime/arena.h"
#include "backend/cpu/runtime/context.h"
#include "backend/cpu/simd/operands.h"
#include "core/maths/ceil_div.h"

namespace lora::cpu {

// Reduction elements per pass. A panel of that many steps stays in the L2 cache while all row tiles
// are multiplied by it.
constexpr size_t kPassElements = 512;
// Blocks (below) are nearly equal, so a single one may be this long.
constexpr size_t kMaxPassElements = kPassElements + kPassElements / 2;
// The rows of a block of a panel in scratch: expansion and transposition write whole groups of 4.
constexpr size_t kBlockRows = kMaxPassElements + 3;

// The most rows at a time: many, because W is transposed or expanded for each chunk, and as scratch
// allows.
constexpr size_t kChunkRows = 1024;

//   acc[row][j] += Σ_e x[row·x_stride + e] · panel[e·width + j]
// All strides count 32-bit elements in memory.
struct Step {
  const uint32_t* x = nullptr;
  size_t x_stride = 0;
  PanelSource w;
  size_t elements = 0;  // 0: no step; at most kMaxPassElements unless w is read in place
  // MultiplyRows takes these two where it multiplies the codes of W (block_stream-inl.h): x as f32,
  // and the sums of each kGroupValues values of x, both by rows without gaps.
  const float* values = nullptr;
  const float* group_sums = nullptr;
  // x as whole numbers, in the place of `x`: MultiplyRows takes them where W has whole codes.
  const WholeRows* whole = nullptr;
};

// Steps whose products are summed in registers before memory is touched.
struct Pass {
  Step main;
  Step extra;  // the few k-steps of LoRA, or none
  // The dropout of the whole pass: column c is kept where bit c % 8 of mask[row·mask_stride + c /
  // 8] is set. The mask must be readable up to a whole panel and 8 bytes beyond it.
  const uint8_t* mask = nullptr;
  size_t mask_stride = 0;
};

// y [rows, n] (+)= factor ⊙ Σ passes + bias, by columns. Row 0 of y is row 0 of every step's x and
// of the masks.
struct Product {
  Operands operands = Operands::kF32;
  std::span<const Pass> passes;
  size_t n = 0;
  const float* factor = nullptr;  // [n], or null; not together with `accumulate`
  // In the place of `factor`: the one of each row. MultiplyRows alone takes them.
  const float* const* row_factors = nullptr;
  const float* bias = nullptr;  // [n], or null
  void* y = nullptr;
  bool y_is_bf16 = false;
  size_t ldy = 0;
  bool accumulate = false;  // f32 y only
};

// The most panels that MultiplyRows multiplies one row by at the same time.
constexpr size_t kStreams = 4;

// What one thread needs for products of up to `rows` rows.
struct ProductScratch {
  float* sums = nullptr;      // [rows or kStreams][PanelWidth()], where some y is bf16
  uint32_t* block = nullptr;  // of a panel, where some W is not read in place
  size_t block_elements = 0;
  // Takes the scratch of `threads` threads one after the other.
  static ProductScratch Take(Arena& arena, size_t threads, size_t rows, bool sums,
                             size_t block_elements);
  ProductScratch Of(size_t thread, size_t rows) const;
};

// Whether products of bf16 pairs multiply their values as f32, which they first widen to: those of
// W behind the block of pairs in scratch.
bool WidensPairs();

// Whether a product reads W in place. Where it does not, its scratch has a block of so many
// elements, which grows with the elements of the reduction.
bool ReadsPanels(Operands operands, const PanelSource& w);
size_t BlockElements(Operands operands, size_t reduction);

// Whether products of bf16 pairs and of split f32 use tile registers, for 32 rows at a time
// (amx-inl.h).
bool MultipliesTiles();

// Multiplies tiles [tiles.begin, tiles.end) of `rows` rows by the panels of that range, with the
// scratch of the calling thread.
void MultiplyPanels(const Product& product, size_t rows, Range tiles, Range panels,
                    const ProductScratch& scratch);

// Computes whole products over the same rows on the threads of `context`, each of which has scratch
// for chunk_rows >= rows rows.
void MultiplyAll(CpuContext* context, std::span<const Product> products, size_t rows,
                 const ProductScratch& scratch, size_t chunk_rows);

// Rows [begin, end) of a product that share a low-rank change: y += h·upᵀ with up [n, r] and
// h [end - begin, h_stride], already scaled, both as 32-bit elements.
struct LowRankRows {
  size_t begin = 0, end = 0;
  bool pairs = false;           // up and h are bf16 pairs, else f32
  const uint32_t* a = nullptr;  // in panels (pack.h) where `pairs`, else row-major
  size_t r = 0;
  const uint32_t* h = nullptr;
  size_t h_stride = 0;
};

// Multiplies all rows by the panels of that range, each of which comes from memory once, with the
// scratch of the calling thread. The product is of f32 or of pairs, has one pass without extra
// steps and masks, whose x may be anywhere, and overwrites y. The bits of a row depend on that row
// alone: its change is summed first, element by element, then x·W element by element.
void MultiplyRows(const Product& product, size_t rows, Range panels,
                  std::span<const LowRankRows> low, const ProductScratch& scratch);

// dst [rows][dst_stride] ← x [rows, k] as elements of the product, with an odd k padded with zero.
// f32 x is rounded to pairs. dst_stride is at least what a row takes.
void CopyElements(const void* x, bool x_is_bf16, size_t ldx, size_t rows, size_t k,
                  Operands operands, uint32_t* dst, size_t dst_stride);

// dst [rows][k] ← x, of which a row has k values of bf16.
void WidenRows(const uint32_t* x, size_t x_stride, size_t rows, size_t k, float* dst);

// sums [rows][groups] ← the sums of each kGroupValues values of x, whose rows have that many
// groups.
void SumGroups(const uint32_t* x, size_t x_stride, size_t rows, size_t groups, bool pairs,
               float* sums);

// Cuts a reduction over k into passes of nearly kPassElements, and says how copies of x for them
// lie in memory: block b is [rows][stride].
struct Blocks {
  Operands operands = Operands::kF32;
  size_t elements = 0, count = 0, length = 0, stride = 0;
  Blocks() = default;
  Blocks(size_t k, Operands operands);
  size_t Begin(size_t b) const { return b * length; }
  size_t Length(size_t b) const { return b + 1 < count ? length : elements - b * length; }
  size_t Size(size_t rows) const { return count * rows * stride; }
};

// Where a product reads x: row i of block b begins at At(b, i).
struct BlockedRows {
  const uint32_t* first = nullptr;
  size_t row_stride = 0, block_stride = 0;
  const uint32_t* At(size_t block, size_t row) const {
    return first + block * block_stride + row * row_stride;
  }
};

// x [m, k] row-major with rows that are ld elements of its dtype apart.
struct RowsOfX {
  const void* data = nullptr;
  bool is_bf16 = false;
  size_t ld = 0, k = 0;
};

// Returns whether a product can read x where it is, and is not slower for it.
bool ReadsInPlace(const RowsOfX& x, Operands operands);

// Returns the bytes of the copies that a call makes of some x [rows, k], with a k for each. What a
// product reads where it is has none.
size_t CopiedBytes(bool bf16, size_t rows, std::span<const size_t> widths);

// Return `rows` rows of x, which are read where they are, or from the copy that CopyBlocks made.
BlockedRows BlocksOf(const Blocks& blocks, const RowsOfX& x, size_t rows, const uint32_t* copy);

// Copies rows [r.begin, r.end) of x to the rows of the same numbers in blocks of `rows` rows,
// unless the product reads x where it is.
void CopyBlocks(const Blocks& blocks, const RowsOfX& x, size_t rows, Range r, uint32_t* copy);

// Writes the passes that multiply blocks of x by the panels of W. Returns how many there are.
size_t BlockPasses(const Blocks& blocks, const BlockedRows& x, const PanelSource& w, Pass* passes);

// Returns the rows per chunk with which blocks of `elements` 32-bit elements per row stay in
// bounds.
size_t ChunkRows(size_t rows, size_t elements);

// Returns into how many tiles of nearly equal height some rows are cut.
inline size_t Tiles(size_t rows) { return CeilDiv(rows, kRegisterRows); }

}  // namespace lora::cpu
