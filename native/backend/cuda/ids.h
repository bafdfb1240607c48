// Checks ids and labels that may be out of range before an op uses them, so that a failed op
// has written nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cuda/context.h"
#include "core/ops/tensor_view.h"

namespace lora::cuda {

struct IdCheck {
  int64_t first_bad = -1;  // position; −1: none
  int32_t bad = 0;
  int64_t inside = 0;  // how many lie in [0, limit)
};

// Bytes of device memory that CheckIds needs.
inline constexpr size_t kIdCheckBytes = 32;

// Checks ids [n] i32; an id equal to `ignored` is never bad. Ids that the host wrote are checked by
// the host; those that a kernel wrote by the device, for whose answer it waits.
inline constexpr int64_t kIgnoreNone = INT64_MIN;
IdCheck CheckIds(const char* op, const TensorView& ids, int64_t limit, int64_t ignored,
                 void* scratch, CudaContext& cuda);

// Returns how many labels count. Throws where a label is no token.
int64_t CheckLabels(const char* op, const TensorView& labels, int64_t vocab, void* scratch,
                    CudaContext& cuda);

}  // namespace lora::cuda
