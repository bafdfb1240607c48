// Cuts an op's scratch span into aligned pieces. The same code run on an arena without memory
// counts the bytes, so that scratch_bytes and run cannot disagree.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/ops/backend.h"

namespace lora::cpu {

class Arena {
 public:
  static constexpr size_t kAlignment = 64;  // a cache line and the widest vector

  Arena() = default;  // counts only: every Take answers nullptr
  explicit Arena(Scratch scratch) : data_(scratch.data()) {
    if (data_ != nullptr) {
      const size_t past = reinterpret_cast<uintptr_t>(data_) % kAlignment;
      if (past != 0) data_ += kAlignment - past;
    }
  }

  template <class T>
  T* Take(size_t count) {
    std::byte* piece = data_ == nullptr ? nullptr : data_ + used_;
    used_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<T*>(piece);
  }

  // Bytes that the span must have to hold everything taken so far, whatever its alignment.
  size_t bytes() const { return used_ == 0 ? 0 : used_ + kAlignment; }

  // Returns the unused rest of the span, so that a callee can build its own arena on it.
  Scratch Rest(Scratch whole) const {
    if (data_ == nullptr) return {};
    std::byte* const begin = data_ + used_;
    return Scratch(begin, static_cast<size_t>(whole.data() + whole.size() - begin));
  }

 private:
  std::byte* data_ = nullptr;
  size_t used_ = 0;
};

}  // namespace lora::cpu
