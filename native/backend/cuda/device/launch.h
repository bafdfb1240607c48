// Every launch uses this file. A kernel takes one parameter struct, which names its threads:
//   struct Params { static constexpr int kThreads = 128, kMinBlocks = 2, kSharedBytes = 1024; … };
//   LORA_KERNEL void LORA_LAUNCH_BOUNDS(Params::kThreads, Params::kMinBlocks) Kernel(Params p) {…}
#pragma once

#include <cstddef>

#include "backend/cuda/device/kernel_list.h"
#include "backend/cuda/device/launch_shape.h"
#include "backend/cuda/device/primitives.h"

#if !defined(__CUDACC__) && !defined(__SANITIZE_THREAD__)
// The linker would merge an uninstrumented copy of a kernel with the checked one, and the emulator
// would then check nothing.
#error "kernels are compiled by lora_simt_kernels() (native/simt/CMakeLists.txt)"
#endif

namespace lora::device {

// Puts a kernel on the list of kernel_list.h, and says where it is.
template <auto kKernel>
struct Registered {
  static inline const size_t index =
      (Kernels().push_back(reinterpret_cast<const void*>(kKernel)), Kernels().size() - 1);
};

#if defined(__CUDACC__)

using Stream = cudaStream_t;
using LaunchError = cudaError_t;

// Gpu::LoadKernel comes before the first launch of a kernel on a device: it allows more than 48 KiB
// of shared memory, and knows whether a launch may be programmatic.
template <auto kKernel, class Params>
LaunchError Launch(const LaunchShape& shape, Stream stream, const Params& params) {
  (void)Registered<kKernel>::index;
  void (*const kernel)(Params) = kKernel;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(shape.grid_x, shape.grid_y, shape.grid_z);
  config.blockDim = dim3(Params::kThreads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = shape.programmatic ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, params);
}

#else

using Stream = simt::Queue*;
using LaunchError = int;

template <auto kKernel, class Params>
LaunchError Launch(const LaunchShape& shape, Stream stream, const Params& params) {
  (void)Registered<kKernel>::index;
  void (*const kernel)(Params) = kKernel;
  simt::EnqueueLaunch(*stream, kernel, {shape.grid_x, shape.grid_y, shape.grid_z},
                      shape.shared_bytes, shape.programmatic, params);
  return 0;
}

#endif

}  // namespace lora::device
