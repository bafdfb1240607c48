// Plays a CUDA runtime in host memory for the tests of runtime.cc. It acts as late as the rules
// allow: what a stream was given runs when someone waits for it, and freed memory comes back when
// the stream gets there and lies in pieces until the pool is trimmed.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace lora::test {

struct FakeCudart {
  size_t memory_bytes = size_t{64} << 20;
  bool pools = true;
  cudaError_t kernel_error = cudaSuccess;  // of loading a kernel
  cudaError_t stream_error = cudaSuccess;  // of all work from now on; sticky
  cudaError_t pinned_error = cudaSuccess;  // of cudaHostAlloc
  std::function<void()> during_wait;  // called once, by the next thread that waits for an event

  // Counted since Reset.
  int waits = 0, trims = 0, kernels_loaded = 0;
  std::vector<int> shared_bytes;  // that kernels were allowed
  int live_objects = 0;           // streams, events, pools, pinned memory, blocks
  std::string violation;  // of the rules of the API: the wrong device, memory used after its end
};

FakeCudart& Fake();
void ResetFake();

}  // namespace lora::test
