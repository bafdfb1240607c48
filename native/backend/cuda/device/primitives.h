// Kernels are written on these primitives: nvcc sees inline PTX, a host compiler sees the
// emulator (docs/internals/emulator.md).
//
// Rules for kernels, so that both mean the same:
// - Include nothing else that is device code; use no asm, __syncthreads, memcpy, static __shared__
//   or static locals.
// - Blocks are one-dimensional. Parameters travel in one struct with kThreads and kMinBlocks
//   (launch.h).
// - All dynamic shared memory is one byte array that the kernel divides itself. Shared and global
//   pointers are generic.
// - All 32 lanes make a warp-wide call (ldmatrix, mma, shuffles, SyncWarp) from one line.
//
// sm_90 fits in later: mbarrier, TMA and wgmma are further asynchronous agents beside cp.async.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lora::device {

// Storage of 16-bit floats. ToFloat and FromFloat<T> convert them, rounding to nearest even.
struct alignas(2) BF16 {
  uint16_t bits;
};
struct alignas(2) F16 {
  uint16_t bits;
};
// What one vector load or store moves. Its address must be a multiple of 16.
struct alignas(16) Vec16 {
  uint32_t words[4];
};
// The same of half the size.
struct alignas(8) Vec8 {
  uint32_t words[2];
};

}  // namespace lora::device

#if defined(__CUDACC__)
#include "backend/cuda/device/primitives_ptx.cuh"
#else
#include "simt/hook.h"
#endif

namespace lora::device {

LORA_DEVICE int LaneIndex() { return ThreadIndex() & 31; }
LORA_DEVICE int WarpIndex() { return ThreadIndex() >> 5; }

// Packs two 16-bit elements into one register, `low` at the lower address, as mma
// fragments hold them.
template <class T>
LORA_DEVICE uint32_t Pack(T low, T high) {
  return uint32_t{low.bits} | uint32_t{high.bits} << 16;
}

}  // namespace lora::device
