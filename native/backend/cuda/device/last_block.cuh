// Sums that blocks of one launch share: each block stores its part, and the last one to do so adds
// all parts in their order, so that the bits depend on no order of blocks.
#pragma once

#include "backend/cuda/device/elements.cuh"

namespace lora::device {

// Tells whether this block is the last of `blocks` to have stored its part, so that all of its
// threads may read what the others stored. Those blocks share the counter (LastToArrive), and every
// thread calls this. The block uses one word of shared memory.
LORA_DEVICE bool IsLastBlock(uint32_t* counter, int blocks, uint32_t* word) {
  SyncThreads();
  if (blocks == 1) return true;
  if (ThreadIndex() == 0) *word = LastToArrive(counter, blocks) ? 1 : 0;
  SyncThreads();
  return *word != 0;
}

// sums[j] += Σ factor(i)·from[i·pitch + j] over `parts` parts, in their order. All parts start at
// multiples of 16 bytes, and kAtOnce of them are loaded before the first is added.
template <int kAtOnce, int N, class FactorOf>
LORA_DEVICE void AddAlignedParts(float (&sums)[N], const float* from, int64_t pitch, int parts,
                                 const FactorOf& factor) {
  LORA_ROLL
  for (int part = 0; part < parts; part += kAtOnce) {
    Vec16 raw[kAtOnce][N / 4];
    LORA_UNROLL
    for (int n = 0; n < kAtOnce; ++n) {
      if (part + n >= parts) continue;
      LORA_UNROLL
      for (int v = 0; v < N / 4; ++v) raw[n][v] = LoadGlobal16(from + (part + n) * pitch + v * 4);
    }
    LORA_UNROLL
    for (int n = 0; n < kAtOnce; ++n) {
      if (part + n >= parts) continue;
      const float by = factor(part + n);
      LORA_UNROLL
      for (int j = 0; j < N; ++j) sums[j] += by * BitsToFloat(raw[n][j / 4].words[j % 4]);
    }
  }
}

// Does the same for the elements [first, first + N) of rows that have `count` and start anywhere:
// there are no sums of elements from `count` on.
template <int kAtOnce, int N, class FactorOf>
LORA_DEVICE void AddParts(float (&sums)[N], const float* from, int64_t first, int64_t count,
                          int64_t pitch, int parts, const FactorOf& factor) {
  if (first + N <= count && pitch % 4 == 0 && IsAligned16(from + first))
    return AddAlignedParts<kAtOnce>(sums, from + first, pitch, parts, factor);
  LORA_ROLL
  for (int part = 0; part < parts; ++part) {
    const float by = factor(part);
    LORA_UNROLL
    for (int j = 0; j < N; ++j)
      if (first + j < count) sums[j] += by * from[part * pitch + first + j];
  }
}

}  // namespace lora::device
