// Copies runs of consecutive elements, with one access of 16 bytes where both addresses allow it,
// else element by element.
#pragma once

#include "backend/cuda/device/elements.cuh"

namespace lora::device {

// Copies elements [first, first + 16 bytes) below `count` bit for bit.
template <class T>
LORA_DEVICE void CopyElements(T* to, const T* from, int64_t first, int64_t count) {
  constexpr int kPerThread = 16 / sizeof(T);
  if (first + kPerThread <= count && IsAligned16(to + first) && IsAligned16(from + first)) {
    StoreGlobal16(to + first, LoadGlobal16(from + first));
  } else {
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j)
      if (first + j < count) to[first + j] = from[first + j];
  }
}

}  // namespace lora::device
