// The ways in which a kernel is run, in turn. The same tests are built for the emulator, which has
// nine schedules, and for a GPU (LORA_REAL_GPU, scripts/gpu-check), which has its own.
#pragma once

#include "test/support/mirror.h"

#ifndef LORA_REAL_GPU
#include "test/simt/emulated_runtime.h"
#endif

namespace lora::test {

#ifdef LORA_REAL_GPU

// The first GPU, opened once; never closed, as no call of CUDA may come from a static destructor.
inline MirrorContext NthContext(int, int64_t skew = 0) {
  static const auto& gpu = *new std::shared_ptr<cuda::Gpu>(cuda::Gpu::Open(0));
  return MirrorContext(gpu, skew);
}

#else

// Number i of nine: threads and blocks forward, reverse, random; copies late, early, either.
inline simt::Options NthOptions(int i) {
  simt::Options options;
  options.threads = static_cast<simt::Schedule>(i % 3);
  options.blocks = static_cast<simt::Schedule>((i + i / 3) % 3);
  options.async = static_cast<simt::Async>(i / 3 % 3);
  options.seed = static_cast<uint64_t>(i) + 1;
  options.shared_shift = i % 2 ? 16 : 0;
  return options;
}

// A fresh device that runs its work in the i-th way.
inline MirrorContext NthContext(int i, int64_t skew = 0) {
  simt::SetEmulatedOptions(NthOptions(i));
  return MirrorContext(cuda::Gpu::Open(0), skew);
}

#endif

}  // namespace lora::test
