// Takes arrays out of an op's scratch, each at a multiple of 256 bytes. Without memory it only
// counts, so that one function says how much is needed and where everything is.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/ops/backend.h"

namespace lora::cuda {

class ScratchArena {
 public:
  ScratchArena() = default;
  explicit ScratchArena(Scratch memory) : base_(memory.data()) {}

  void* TakeBytes(size_t bytes) {
    void* const taken = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (bytes + 255) / 256 * 256;
    return taken;
  }
  template <class T>
  T* Take(int64_t count) {
    return static_cast<T*>(TakeBytes(static_cast<size_t>(count) * sizeof(T)));
  }
  // Takes scratch that several steps use one after the other.
  Scratch TakeScratch(size_t bytes) { return {static_cast<std::byte*>(TakeBytes(bytes)), bytes}; }
  size_t used() const { return used_; }

 private:
  std::byte* base_ = nullptr;
  size_t used_ = 0;
};

}  // namespace lora::cuda
