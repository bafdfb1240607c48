// The ways in which the emulator runs a kernel, in turn.
#pragma once

#include "test/simt/emulated_runtime.h"
#include "test/support/mirror.h"

namespace lora::test {

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

}  // namespace lora::test
