// Checks the slots and lengths of an op with a state. Only .cu files include this.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/cuda/context.h"
#include "core/ops/states.h"

namespace lora::cuda {

// Throws what CheckSlots does. Numbers that a kernel wrote are few, so that they are read instead
// of being looked at by a kernel.
inline void RequireSlots(const char* op, const TensorView& slots, const TensorView& lengths,
                         int64_t pool_slots, int64_t count, CudaContext& cuda) {
  if (slots.numel() == 0 || count == 0) return;
  // A context that only lists launches leaves numbers as they should be.
  std::vector<int32_t> slot_values(static_cast<size_t>(slots.numel()), 0);
  std::vector<int32_t> length_values(slot_values.size(), static_cast<int32_t>(count));
  const auto on_host = [&](const TensorView& view, std::vector<int32_t>& values) {
    if (const TensorView known = view.on_host()) return known;
    cuda.ReadNow(values.data(), view.data, view.bytes());
    return TensorView(values.data(), DType::kI32, view.shape);
  };
  CheckSlots(op, on_host(slots, slot_values), on_host(lengths, length_values), pool_slots, count);
}

}  // namespace lora::cuda
