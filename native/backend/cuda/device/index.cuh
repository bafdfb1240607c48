// Divides indices in 32 bits where they fit, because 64-bit divisions are slow on a GPU.
#pragma once

#include "backend/cuda/device/primitives.h"

namespace lora::device {

struct Division {
  int64_t quotient, remainder;
};

// Divides a non-negative value by a positive divisor.
LORA_DEVICE Division Divide(int64_t value, int64_t divisor) {
  if (((static_cast<uint64_t>(value) | static_cast<uint64_t>(divisor)) >> 32) == 0) {
    const uint32_t v = static_cast<uint32_t>(value), d = static_cast<uint32_t>(divisor);
    return {v / d, v % d};
  }
  return {value / divisor, value % divisor};
}

// Returns this thread's index among all threads of a one-dimensional grid of blocks of kThreads.
template <int kThreads>
LORA_DEVICE int64_t GlobalIndex() {
  return int64_t{BlockX()} * kThreads + ThreadIndex();
}

}  // namespace lora::device
