// Memory through which the host and the device exchange data.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <mutex>
#include <vector>

namespace lora::cuda {

// Page-locked memory in slots, each with the event after which it may be used again.
class Staging {
 public:
  Staging(int slots, size_t bytes) : bytes_(bytes), slots_(static_cast<size_t>(slots)) {}

  cudaError_t Open() {
    cudaError_t error = cudaHostAlloc(&memory_, bytes_ * slots_.size(), cudaHostAllocDefault);
    for (size_t i = 0; error == cudaSuccess && i < slots_.size(); ++i) {
      slots_[i].data = static_cast<char*>(memory_) + i * bytes_;
      // A thread that waits for the event sleeps instead of spinning.
      error =
          cudaEventCreateWithFlags(&slots_[i].free, cudaEventDisableTiming | cudaEventBlockingSync);
    }
    return error;
  }
  void Close() {
    for (Slot& slot : slots_)
      if (slot.free != nullptr) (void)cudaEventDestroy(slot.free);
    if (memory_ != nullptr) (void)cudaFreeHost(memory_);
  }

  struct Slot {
    char* data = nullptr;
    cudaEvent_t free = nullptr;
  };
  Slot& Next() { return slots_[next_++ % slots_.size()]; }
  size_t bytes() const { return bytes_; }
  size_t slots() const { return slots_.size(); }

  std::mutex mutex;  // held by whoever copies through it

 private:
  const size_t bytes_;
  std::vector<Slot> slots_;
  void* memory_ = nullptr;
  size_t next_ = 0;
};

}  // namespace lora::cuda
