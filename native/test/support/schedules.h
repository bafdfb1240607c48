// Runs kernels in one schedule after the other. The same tests are built for the emulator, which
// has nine schedules, and for a GPU (LORA_REAL_GPU, scripts/gpu-check), which has its own: there
// test/gpu/stand_in.cc replaces the emulator.
#pragma once

#include "simt/emulated_runtime.h"
#include "test/support/mirror.h"

namespace lora::test {

// Returns number i of nine: threads and blocks forward, reverse, random; copies late, early,
// either.
inline simt::Options NthOptions(int i) {
  simt::Options options;
  options.threads = static_cast<simt::Schedule>(i % 3);
  options.blocks = static_cast<simt::Schedule>((i + i / 3) % 3);
  options.async = static_cast<simt::Async>(i / 3 % 3);
  options.seed = static_cast<uint64_t>(i) + 1;
  options.shared_shift = i % 2 ? 16 : 0;
  return options;
}

// Opens an emulated device with the options and properties that were set last, or the GPU with the
// same properties.
#ifdef LORA_REAL_GPU
std::shared_ptr<cuda::Gpu> OpenGpu();
#else
inline std::shared_ptr<cuda::Gpu> OpenGpu() { return cuda::Gpu::Open(0); }
#endif

// Opens a device that runs its work in schedule i.
inline std::shared_ptr<cuda::Gpu> NthGpu(int i) {
  simt::SetEmulatedOptions(NthOptions(i));
  return OpenGpu();
}
inline MirrorContext NthContext(int i, Addresses addresses = Addresses::kAligned) {
  return MirrorContext(NthGpu(i), addresses);
}

}  // namespace lora::test
