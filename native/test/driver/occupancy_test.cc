// Tests the arithmetic of occupancy.h against that of the CUDA toolkit (cuda_occupancy.h).
#include "backend/cuda/occupancy.h"

#include <cuda_occupancy.h>
#include <doctest/doctest.h>

namespace lora::test {
namespace {

using cuda::Multiprocessor;

// Returns the toolkit's answer, 0 for what cannot be launched.
int BlocksOfToolkit(const Multiprocessor& one, int registers, int threads, size_t fixed,
                    size_t dynamic) {
  cudaOccDeviceProp device;
  device.computeMajor = one.arch / 10;
  device.computeMinor = one.arch % 10;
  device.maxThreadsPerBlock = 1024;
  device.maxThreadsPerMultiprocessor = one.threads;
  device.regsPerBlock = device.regsPerMultiprocessor = 65536;
  device.warpSize = 32;
  device.numSms = 1;
  device.sharedMemPerBlock = 48 << 10;
  device.sharedMemPerMultiprocessor = one.shared_bytes + cuda::kReservedSharedBytes;
  device.sharedMemPerBlockOptin = one.shared_bytes;
  device.reservedSharedMemPerBlock = cuda::kReservedSharedBytes;
  cudaOccFuncAttributes kernel;
  kernel.maxThreadsPerBlock = threads;
  kernel.numRegs = registers;
  kernel.sharedSizeBytes = fixed;
  kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
  kernel.maxDynamicSharedSizeBytes = one.shared_bytes - fixed;  // as LoadCode asks
  cudaOccDeviceState state;
  state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
  cudaOccResult result{};
  REQUIRE(cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads,
                                                  dynamic) == CUDA_OCC_SUCCESS);
  return result.activeBlocksPerMultiprocessor;
}

TEST_CASE("occupancy: as many blocks as the toolkit says") {
  for (const Multiprocessor& one : cuda::kMultiprocessors) {
    CAPTURE(one.arch);
    for (const int threads : {32, 64, 96, 128, 160, 256, 512, 544, 1024}) {
      CAPTURE(threads);
      for (int registers = 16; registers <= 255; ++registers) {
        CAPTURE(registers);
        for (const size_t dynamic : {0, 1, 128, 4096, 31 << 10, 32 << 10, 49 << 10, 98 << 10}) {
          CAPTURE(dynamic);
          for (const size_t fixed : {0, 512})
            REQUIRE(cuda::BlocksAtOnce(one, registers, threads, fixed + dynamic) ==
                    BlocksOfToolkit(one, registers, threads, fixed, dynamic));
        }
      }
    }
  }
}

// A block may have all of it and then runs alone.
TEST_CASE("occupancy: blocks at the edge of shared memory") {
  for (const Multiprocessor& one : cuda::kMultiprocessors) {
    CAPTURE(one.arch);
    const size_t two = (one.shared_bytes + 1024) / 2 - 1024;  // two of them fill it
    for (const size_t bytes : {two - 1, two, two + 1, one.shared_bytes - 1, one.shared_bytes}) {
      CAPTURE(bytes);
      const int blocks = cuda::BlocksAtOnce(one, 32, 32, bytes);
      CHECK(blocks == (bytes <= two ? 2 : 1));
      CHECK(blocks == BlocksOfToolkit(one, 32, 32, 0, bytes));
    }
    CHECK(cuda::BlocksAtOnce(one, 32, 32, one.shared_bytes + 1) == 0);
  }
}

}  // namespace
}  // namespace lora::test
