// Checks lengths and pages before an op uses them, so that a failed op has written nothing.
#pragma once

#include <cstddef>

#include "backend/cuda/context.h"
#include "core/ops/pages.h"

namespace lora::cuda {

// Bytes of device memory that RequirePages needs.
inline constexpr size_t kPageCheckBytes = 32;

// Throws as CheckPages (core/ops/pages.h) does. Where a kernel wrote the table or the lengths, it
// waits for the answer of the device.
void RequirePages(const char* op, const TensorView& page_table, const TensorView& lengths,
                  int64_t pages, const UsedPositions& used, void* scratch, CudaContext& cuda);

}  // namespace lora::cuda
