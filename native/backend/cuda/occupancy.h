// How many blocks of threads a multiprocessor holds at once. Launches, tests, the emulator and
// docs/internals/cuda-kernels.md all have it from here.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/maths/ceil_div.h"

namespace lora::cuda {

// What a multiprocessor has, and what one block may have of its shared memory. CUDA C++
// Programming Guide, "Technical Specifications per Compute Capability".
struct Multiprocessor {
  int arch;  // the compute capability, 86 for 8.6
  int threads, blocks;
  size_t shared_bytes;  // of one block (DeviceProperties::shared_bytes)
};
inline constexpr Multiprocessor kMultiprocessors[] = {
    {80, 2048, 32, 163 << 10},  {86, 1536, 16, 99 << 10},   {87, 1536, 16, 163 << 10},
    {89, 1536, 24, 99 << 10},   {90, 2048, 32, 227 << 10},  {100, 2048, 32, 227 << 10},
    {103, 2048, 32, 227 << 10}, {110, 1536, 24, 227 << 10}, {120, 1536, 24, 99 << 10},
    {121, 1536, 24, 99 << 10},
};

// Returns that of a compute capability, or null where the table has none.
constexpr const Multiprocessor* MultiprocessorOf(int arch) {
  for (const Multiprocessor& one : kMultiprocessors)
    if (one.arch == arch) return &one;
  return nullptr;
}

// What a block may have on every device, and on those that have most.
inline constexpr size_t kLeastSharedBytes =
    std::ranges::min(kMultiprocessors, {}, &Multiprocessor::shared_bytes).shared_bytes;
inline constexpr size_t kMaxSharedBytes =
    std::ranges::max(kMultiprocessors, {}, &Multiprocessor::shared_bytes).shared_bytes;

// From compute capability 8.0 on CUDA takes so much for itself beside the shared memory of each
// block. What a block may have does not count it: a multiprocessor has that and this.
inline constexpr size_t kReservedSharedBytes = 1024;
// Shared memory is given in units.
inline constexpr size_t kSharedUnit = 128;

// Returns how many blocks with `bytes` of shared memory run on a multiprocessor at once, where a
// block may have `available`.
constexpr int BlocksBySharedMemory(size_t bytes, size_t available) {
  const size_t block = RoundUp(bytes, kSharedUnit) + kReservedSharedBytes;
  return static_cast<int>((available + kReservedSharedBytes) / block);
}

// Returns how many blocks run at once by their registers. A multiprocessor has four parts with
// 16,384 registers each, a warp lies in one of them, and it is given registers in units of 256.
constexpr int BlocksByRegisters(int registers, int threads) {
  constexpr int kParts = 4, kRegistersOfPart = 16384, kRegisterUnit = 256, kWarp = 32;
  const int warps = CeilDiv(threads, kWarp);
  const int of_part = kRegistersOfPart / RoundUp(registers * kWarp, kRegisterUnit);
  // A launch is refused where a block does not fit if its warps lie in all parts alike.
  if (CeilDiv(warps, kParts) > of_part) return 0;
  return kParts * of_part / warps;
}

// Returns how many blocks of a kernel run on a multiprocessor at once, 0 where it cannot be
// launched. `shared_bytes` are the static and the dynamic ones of a block.
constexpr int BlocksAtOnce(const Multiprocessor& one, int registers, int threads,
                           size_t shared_bytes) {
  return std::min({one.blocks, one.threads / RoundUp(threads, 32),
                   BlocksByRegisters(registers, threads),
                   BlocksBySharedMemory(shared_bytes, one.shared_bytes)});
}

}  // namespace lora::cuda
