// The inner product of the CPU backend: row tiles times packed panels. Internal to gemm and
// lora_linear; everybody else calls Gemm (gemm.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "backend/cpu/context.h"

namespace lora::cpu {

// Rows of a tile are balanced: `count` rows are ceil(count / kTileM) tiles of nearly equal height.
constexpr size_t kTileM = 6;

// Reduction elements per pass: a panel of that many steps stays in the L2 cache while all row tiles
// go over it.
constexpr size_t kPassElements = 512;

// Rows packed at a time; bounds scratch and keeps a block of x in L2.
constexpr size_t kChunkRows = 512;

// acc[row][j] += Σ_e x[row·x_stride + e] · panel[e·width + j], panel p being w + p·panel_stride.
// All in 32-bit elements.
struct Step {
  const uint32_t* x = nullptr;
  size_t x_stride = 0;
  const uint32_t* w = nullptr;
  size_t panel_stride = 0;
  size_t elements = 0;  // 0: no step
};

// Steps whose products meet in registers before memory is touched.
struct Pass {
  Step main;
  Step extra;  // the few k-steps of LoRA, or none
  // Dropout of the whole pass: bit c % 8 of mask[row·mask_stride + c / 8] set keeps column c.
  // Readable up to a whole panel and 8 bytes.
  const uint8_t* mask = nullptr;
  size_t mask_stride = 0;
};

// y [rows, n] (+)= Σ passes + bias. Row 0 is row 0 of every step's x and of the masks.
struct Product {
  bool pairs = false;  // elements are bf16 pairs, else f32
  std::span<const Pass> passes;
  size_t n = 0;
  const float* bias = nullptr;  // [n]
  void* y = nullptr;
  bool y_is_bf16 = false;
  size_t ldy = 0;
  bool accumulate = false;  // f32 y only
};

// Tiles [tiles.begin, tiles.end) of `rows` rows, for the panels of that range. A bf16 y wants
// sums: f32 [MultiplySums(rows)] of the calling thread.
void MultiplyPanels(const Product& product, size_t rows, Range tiles, Range panels, float* sums);
size_t MultiplySums(size_t rows);

// Whole products over the same rows, shared out to the threads of `context`. `sums` (if some y is
// bf16) holds MultiplySums(rows) for each thread.
void MultiplyAll(CpuContext* context, std::span<const Product> products, size_t rows, float* sums);

// MultiplyPanels for 1 to kSkinnyRows rows of x, reading the panels at memory speed. The passes' x
// may lie anywhere; masks are not supported. LoRA comes unpacked: y += h·Aᵀ with A [n, r] row-major
// f32 and h [rows, h_stride] f32, already scaled.
constexpr size_t kSkinnyRows = 4;
struct SkinnyLora {
  const float* a = nullptr;
  size_t r = 0;
  const float* h = nullptr;
  size_t h_stride = 0;
};
void MultiplySkinny(const Product& product, size_t rows, Range panels, const SkinnyLora& lora);

// dst [rows][dst_stride] ← x [rows, k] as 32-bit elements, an odd k padded with zero; f32 x is
// rounded where `pairs`. dst_stride >= elements.
void CopyElements(const void* x, bool x_is_bf16, size_t ldx, size_t rows, size_t k, bool pairs,
                  uint32_t* dst, size_t dst_stride);

// Writes the passes that multiply blocks of x, which begin at `x` and are [rows][stride] each, by
// panels of [.., elements]. Returns how many passes there are.
struct Blocks;
size_t BlockPasses(const Blocks& blocks, const uint32_t* x, size_t rows, const void* panels,
                   size_t panel_stride, Pass* passes);

// How a reduction of `elements` is cut into passes of nearly kPassElements, and how those blocks of
// x lie in memory: block b is [rows][stride].
struct Blocks {
  size_t elements = 0, count = 0, length = 0, stride = 0;
  Blocks() = default;
  explicit Blocks(size_t elements);
  size_t Begin(size_t b) const { return b * length; }
  size_t Length(size_t b) const { return b + 1 < count ? length : elements - b * length; }
  size_t Size(size_t rows) const { return count * rows * stride; }
};

// Copies rows of x [m, k] (row-major, stride ldx) into blocks of `rows` rows: rows [r.begin, r.end)
// of the blocks from the rows of the same number of x.
void CopyBlocks(const Blocks& blocks, const void* x, bool x_is_bf16, size_t ldx, size_t k,
                bool pairs, size_t rows, Range r, uint32_t* dst);

// Rows per chunk so that `elements` of 32 bits for each stay in bounds.
size_t ChunkRows(size_t rows, size_t elements);

inline size_t Tiles(size_t rows) { return (rows + kTileM - 1) / kTileM; }

}  // namespace lora::cpu
