// The layout of a frozen matrix on the CPU, and the ops that convert to and from it.
//
// W [n, k] is cut into panels of PanelWidth() outputs. A panel is [Elements(k)][PanelWidth()]
// 32-bit elements: one f32, or the bf16 pair W[i, 2e], W[i, 2e + 1] (low half first). An odd k and
// the last panel are padded with zeros. One panel is read front to back by every kernel.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/context.h"
#include "core/backend.h"

namespace lora::cpu {

// Outputs per panel. Depends on the instruction set chosen at run time, so packed bytes are not to
// be stored or sent to another machine.
size_t PanelWidth();

// How many 32-bit elements hold k values.
inline size_t Elements(size_t k, DType dtype) { return SizeOf(dtype) == 2 ? (k + 1) / 2 : k; }
inline size_t Panels(size_t n, size_t width) { return (n + width - 1) / width; }

// Bytes of W [n, k] in panels. f32 or a 2-byte dtype.
size_t PanelBytes(size_t n, size_t k, DType dtype);

// dst ← panels of W [n, k], whose element (i, l) is src[i·ld + l], or src[l·ld + i] if
// `transposed`. No rounding: src and dst have the same dtype. dst is best aligned to 64 bytes.
void PackPanels(const void* src, size_t ld, bool transposed, size_t n, size_t k, DType dtype,
                void* dst, CpuContext* context);

// dst [cols] ← row `row` of a matrix packed kForward.
void UnpackRow(const PackedView& w, int64_t row, void* dst);

size_t PackedBytes(int64_t rows, int64_t cols, DType dtype, Direction direction);

size_t PackScratchBytes(const PackArgs&, int threads);
void Pack(const PackArgs&, Scratch, Context&);

size_t UnpackScratchBytes(const UnpackArgs&, int threads);
void Unpack(const UnpackArgs&, Scratch, Context&);

}  // namespace lora::cpu
