// What the kernels share that look for the first of many numbers which is out of range.
#pragma once

#include "backend/cuda/device/primitives.h"

namespace lora::device {

// The index of the first bad number where there is none.
inline constexpr uint64_t kNoBadId = UINT64_MAX;

struct Min {
  LORA_DEVICE uint64_t operator()(uint64_t a, uint64_t b) const { return b < a ? b : a; }
};

}  // namespace lora::device
