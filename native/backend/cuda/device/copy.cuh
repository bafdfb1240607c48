// dst[row, i] = src[row, i] for rows of `run` elements that start `pitch` elements apart. Bits are
// copied without conversion. A thread copies 16 bytes of one row, or element by element at odd
// addresses and at the end of a row.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/launch.h"

namespace lora::device {

// U is an unsigned integer as large as an element.
template <class U>
struct CopyRowsParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr int kPerThread = 16 / sizeof(U);
  const U* src;
  U* dst;
  int64_t src_pitch, dst_pitch, rows, run;
  LORA_HOST_DEVICE int64_t chunks() const { return (run + kPerThread - 1) / kPerThread; }
};

template <class U>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(CopyRowsParams<U>::kThreads, CopyRowsParams<U>::kMinBlocks)
    CopyRows(const LORA_GRID_CONSTANT CopyRowsParams<U> p) {
  constexpr int kPerThread = CopyRowsParams<U>::kPerThread;
  const auto [row, chunk] = Divide(GlobalIndex<CopyRowsParams<U>::kThreads>(), p.chunks());
  if (row >= p.rows) return;
  const int64_t first = chunk * kPerThread;
  const U* src = p.src + row * p.src_pitch + first;
  U* dst = p.dst + row * p.dst_pitch + first;
  const int64_t count = p.run - first;
  if (count >= kPerThread && IsAligned16(src) && IsAligned16(dst)) {
    CopyGlobal(reinterpret_cast<Vec16*>(dst), reinterpret_cast<const Vec16*>(src));
  } else {
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j)
      if (j < count) CopyGlobal(dst + j, src + j);
  }
}

}  // namespace lora::device
