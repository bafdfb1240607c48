// How many blocks of threads a multiprocessor holds by their shared memory. Registers and threads
// may allow fewer: docs/internals/cuda-kernels.md.
#pragma once

#include <cstddef>

#include "core/maths/ceil_div.h"

namespace lora::cuda {

// From compute capability 8.0 on CUDA takes so much for itself beside the shared memory of each
// block. What a block may have (DeviceProperties::shared_bytes) does not count it: a multiprocessor
// has that and this.
inline constexpr size_t kReservedSharedBytes = 1024;
// Shared memory is given in units.
inline constexpr size_t kSharedUnit = 128;
// What a block may have on every device, and on the one that has most (CUDA C++ Programming Guide,
// "Technical Specifications per Compute Capability").
inline constexpr size_t kLeastSharedBytes = 99 << 10, kMostSharedBytes = 227 << 10;

// Returns how many blocks with `bytes` of shared memory run on a multiprocessor at once, where a
// block may have `available`.
constexpr int BlocksBySharedMemory(size_t bytes, size_t available) {
  const size_t block = RoundUp(bytes, kSharedUnit) + kReservedSharedBytes;
  return static_cast<int>((available + kReservedSharedBytes) / block);
}

}  // namespace lora::cuda
