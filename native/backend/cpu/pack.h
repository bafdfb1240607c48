// A frozen matrix has this layout on the CPU; the ops pack and unpack convert to and from it.
//
// W [n, k] is cut into panels of PanelWidth() outputs. A panel is [Elements(k)][PanelWidth()]
// 32-bit elements: one f32, or the bf16 pair W[i, 2e], W[i, 2e + 1] (low half first). An odd k and
// the last panel are padded with zeros. Every kernel reads a panel from front to back.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/context.h"
#include "core/maths/ceil_div.h"
#include "core/ops/tensor_view.h"

namespace lora::cpu {

// Outputs per panel. The width depends on the instruction set chosen at run time, so packed bytes
// must not be stored or sent to another machine.
size_t PanelWidth();

// Returns how many 32-bit elements hold k values.
inline size_t Elements(size_t k, DType dtype) { return SizeOf(dtype) == 2 ? (k + 1) / 2 : k; }
inline size_t Panels(size_t n, size_t width) { return CeilDiv(n, width); }

// Returns the bytes of W [n, k] in panels, of f32 or a 2-byte dtype.
size_t PanelBytes(size_t n, size_t k, DType dtype);

// dst ← panels of W [n, k], whose element (i, l) is src[i·ld + l], or src[l·ld + i] if
// `transposed`. src and dst have the same dtype, so nothing is rounded. Kernels are fastest when
// dst is aligned to 64 bytes.
void PackPanels(const void* src, size_t ld, bool transposed, size_t n, size_t k, DType dtype,
                void* dst, CpuContext* context);

// dst [cols] ← row `row` of a matrix packed kForward.
void UnpackRow(const PackedView& w, int64_t row, void* dst);

size_t PackedBytes(int64_t rows, int64_t cols, DType dtype, Direction direction);

}  // namespace lora::cpu
