// Copies parts of the columns of a matrix, which lie side by side there, to matrices of their own,
// or back. Bits are copied without conversion. A thread copies 16 bytes of a row of one part, or
// element by element at odd addresses and at the end of the row.
#pragma once

#include "backend/cuda/device/copy_elements.cuh"
#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/launch.h"

namespace lora::device {

// U is an unsigned integer as large as an element.
template <class U>
struct ColumnsParams {
  static constexpr int kThreads = 256, kMinBlocks = 4, kParts = 8;
  static constexpr int kPerThread = 16 / sizeof(U);
  U* whole;          // [rows, columns]
  U* parts[kParts];  // [rows, sizes[i]]; a null one is left out, or has zeros where it joins
  int64_t sizes[kParts];
  int64_t rows, columns;
  bool joins;  // copies to `whole`
  LORA_HOST_DEVICE int64_t ChunksOf(int part) const {
    return (sizes[part] + kPerThread - 1) / kPerThread;
  }
  LORA_HOST_DEVICE int64_t chunks() const {
    int64_t sum = 0;
    for (int i = 0; i < kParts; ++i) sum += ChunksOf(i);
    return sum;
  }
};

template <class U>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(ColumnsParams<U>::kThreads, ColumnsParams<U>::kMinBlocks)
    Columns(const LORA_GRID_CONSTANT ColumnsParams<U> p) {
  constexpr int kPerThread = ColumnsParams<U>::kPerThread, kParts = ColumnsParams<U>::kParts;
  auto [row, chunk] = Divide(GlobalIndex<ColumnsParams<U>::kThreads>(), p.chunks());
  if (row >= p.rows) return;
  U* whole = p.whole + row * p.columns;
  U* part = p.parts[0];
  int64_t size = p.sizes[0];
  LORA_UNROLL
  for (int i = 1; i < kParts; ++i) {
    const int64_t before = (size + kPerThread - 1) / kPerThread;
    if (chunk < before) break;
    chunk -= before;
    whole += size;
    part = p.parts[i];
    size = p.sizes[i];
  }
  const int64_t first = chunk * kPerThread;
  if (part == nullptr) {
    if (!p.joins) return;
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j)
      if (first + j < size) whole[first + j] = 0;
  } else if (p.joins) {
    CopyElements(whole, part + row * size, first, size);
  } else {
    CopyElements(part + row * size, whole, first, size);
  }
}

}  // namespace lora::device
