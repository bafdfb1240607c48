// What launches must know of the kernels of this binary on one device. The code of a kernel is
// loaded when it is first launched there: opening a device would otherwise take as long as loading
// all of them, and most programs launch few.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "backend/cuda/device/kernel_list.h"
#include "backend/cuda/driver.h"

namespace lora::cuda {

class LoadedKernels {
 public:
  // Calls load(address), which returns what MayOverlap shall return from now on, where it has not
  // returned for that kernel yet. Any thread may call this.
  template <class F>
  bool MayOverlap(size_t kernel, const F& load) {
    std::atomic<State>& state = states_[kernel];
    State known = state.load(std::memory_order_acquire);
    if (known == State::kNotLoaded) {
      const std::lock_guard lock(mutex_);
      known = state.load(std::memory_order_relaxed);
      if (known == State::kNotLoaded) {
        known = load(device::Kernels()[kernel]) ? State::kMayOverlap : State::kLoaded;
        state.store(known, std::memory_order_release);
      }
    }
    return known == State::kMayOverlap;
  }

 private:
  enum class State : uint8_t { kNotLoaded, kLoaded, kMayOverlap };

  std::mutex mutex_;  // held while a kernel is loaded
  std::vector<std::atomic<State>> states_{device::Kernels().size()};
};

// Loads a kernel for the thread's device, whose blocks may have `shared_bytes`, and says whether
// its launches may overlap.
inline cudaError_t LoadCode(const void* kernel, size_t shared_bytes, bool& may_overlap) {
  cudaFuncAttributes attributes{};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error != cudaSuccess) return error;
  // PTX for older architectures that the driver assembles for newer ones contains no wait, so that
  // launches of it must not overlap. A driver that does not know the version (0) gets the same:
  // `doctor` says so (OverlapText).
  may_overlap = attributes.ptxVersion >= kLeastOverlapArch;
  // More than 48 KiB of shared memory for a block need this opt-in once. It holds for everyone who
  // launches the kernel on this device, so it must not depend on what one launch needs.
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(shared_bytes - attributes.sharedSizeBytes));
}

}  // namespace lora::cuda
