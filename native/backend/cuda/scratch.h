// Takes arrays out of an op's scratch, each at a multiple of 256 bytes. Without memory it only
// counts, so that one function says how much is needed and where everything is.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/maths/ceil_div.h"
#include "core/ops/backend.h"

namespace lora::cuda {

class ScratchArena {
 public:
  ScratchArena() = default;
  explicit ScratchArena(Scratch memory) : memory_(memory) {}

  void* TakeBytes(size_t bytes) {
    void* const taken = counts() ? nullptr : memory_.data() + used_;
    used_ += RoundUp(bytes, 256);
    return taken;
  }
  template <class T>
  T* Take(int64_t count) {
    return static_cast<T*>(TakeBytes(static_cast<size_t>(count) * sizeof(T)));
  }
  // Returns the bytes that were taken.
  size_t used() const { return used_; }

 private:
  bool counts() const { return memory_.data() == nullptr; }

  Scratch memory_;
  size_t used_ = 0;
};

}  // namespace lora::cuda
