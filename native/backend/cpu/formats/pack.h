// A frozen matrix has this layout on the CPU; the ops pack and unpack convert to and from it.
//
// W [n, k] is cut into panels of PanelWidth() outputs. A panel is [Elements(k)][PanelWidth()]
// 32-bit elements: one f32, the 16-bit pair W[i, 2e], W[i, 2e + 1], four int8 W[i, 4e], …, or the
// codes of W[i, 8e], …, of which byte b has those of W[i, 8e + b] (low bits) and W[i, 8e + 4 + b].
// The end of k and the last panel are padded with zeros. The scales follow the panels: of each
// panel [ScaleRows][PanelWidth()], of which one row serves ScaleGroup(k) values along k, or all of
// them (int8 rows). Of a format with blocks, a panel is [blocks of a row][bytes of a
// block][PanelWidth()] bytes, those of files with the outputs side by side, and nothing follows.
// Every kernel reads a panel from front to back.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>

#include "backend/cpu/runtime/context.h"
#include "core/maths/ceil_div.h"
#include "core/ops/tensor_view.h"

namespace lora::cpu {

// Outputs per panel. The width depends on the instruction set chosen at run time, so packed bytes
// must not be stored or sent to another machine.
size_t PanelWidth();

// Returns how many 32-bit elements hold k values.
inline size_t Elements(size_t k, DType dtype) {
  return CeilDiv(k * SizeOf(dtype), sizeof(uint32_t));
}
inline size_t Elements(size_t k, WeightFormat format) {
  return CeilDiv(static_cast<size_t>(ValueBytes(format, 1, static_cast<int64_t>(k))),
                 sizeof(uint32_t));
}
// Returns the bit at which code v of the 8 in an element begins. Neighbors along k are in
// neighboring bytes, so that one shuffle of bytes finds the values of both.
constexpr int CodeShift(int v) { return v < 4 ? 8 * v : 8 * (v - 4) + 4; }
// The bytes of the largest block of any format.
constexpr size_t kMaxBlockBytes = [] {
  int64_t most = 0;
  for (auto i = static_cast<int>(kFirstBlocks); i <= static_cast<int>(kLastBlocks); ++i) {
    most = std::max(most, TraitsOf(static_cast<WeightFormat>(i)).block.bytes);
  }
  return static_cast<size_t>(most);
}();
// to [count·bytes] ← blocks [first, first + count) of output j of a panel, as they are in files.
inline void CopyBlocksOf(const uint8_t* panel, size_t first, size_t count, size_t bytes, size_t j,
                         size_t width, uint8_t* to) {
  const uint8_t* const from = panel + first * bytes * width + j;
  for (size_t t = 0; t < count * bytes; ++t) to[t] = from[t * width];
}
// Returns how many values along k certainly share a scale, where blocks go on from row to row.
inline size_t ScaleGroup(size_t k) { return std::gcd(k, size_t{kBlockValues}); }
inline size_t Panels(size_t n, size_t width) { return CeilDiv(n, width); }

// Returns the bytes of W [n, k] in panels, of a dtype of 4, 2 or 1 bytes.
size_t PanelBytes(size_t n, size_t k, DType dtype);

// dst ← panels of W [n, k], whose element (i, l) is src[i·ld + l], or src[l·ld + i] if
// `transposed`. src and dst have the same dtype, so nothing is rounded. Kernels are fastest when
// dst is aligned to 64 bytes.
void PackPanels(const void* src, size_t ld, bool transposed, size_t n, size_t k, DType dtype,
                void* dst, CpuContext* context);

// dst [cols] of w.dtype ← row `row` of a packed matrix.
void UnpackRow(const PackedView& w, int64_t row, void* dst);

size_t PackedBytes(int64_t rows, int64_t cols, WeightFormat format);

// The panels that a product reads, and how. The product multiplies elements of f32, or bf16 pairs;
// panels in another format are expanded to those, and for x·W transposed, a block at a time into
// scratch (panel_reader-inl.h). So one copy of W serves both directions.
struct PanelSource {
  const uint32_t* panels = nullptr;  // panel p begins at panels + p·stride
  size_t stride = 0;                 // in 32-bit elements as they are stored
  size_t first = 0;                  // the element of the product's reduction that is read first
  WeightFormat format = WeightFormat::kF32;
  const float* scales = nullptr;  // from the first panel on; those of panel p at p·scale_stride
  size_t scale_stride = 0;
  unsigned scale_shift = 0;  // value l of a row has the scales of row l >> scale_shift
  const CodeTable* codes = nullptr;
  bool expanded = false;    // the format is not that of the product's elements
  bool transposed = false;  // x·W: the rows of W are the reduction, its columns the outputs
  bool split = false;       // panels of f32 are split already (kSplitF32 in operands.h)
  size_t columns = 0;       // of W

  bool in_place() const { return !transposed && !expanded; }
  PanelSource From(size_t element) const {
    PanelSource from = *this;
    from.first += element;
    return from;
  }
};

// x·Wᵀ, for the outputs of W from n0 on. n0 is a multiple of PanelWidth().
PanelSource PanelsOf(const PackedView& w, size_t n0 = 0);
// x·W, over the rows of W from n0 on. n0 is a multiple of PanelWidth().
PanelSource TransposedPanelsOf(const PackedView& w, size_t n0 = 0);

}  // namespace lora::cpu
