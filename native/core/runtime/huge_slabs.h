// Blocks too small for huge pages of their own, side by side in pages of 2 MiB. A decode step reads
// every weight once, and most weights of a small model have less than 2 MiB: from pages of 4 KiB
// they arrive a fifth slower, because the processor's own prefetching ends with each page and the
// tables of so many pages fit no cache.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>

namespace lora {

// Its functions may be called on any thread.
class HugeSlabs {
 public:
  // The smallest size, and the one from which blocks have huge pages of their own.
  static constexpr size_t kFrom = size_t{32} << 10, kBelow = size_t{2} << 20;

  HugeSlabs() = default;
  ~HugeSlabs();
  HugeSlabs(const HugeSlabs&) = delete;
  HugeSlabs& operator=(const HugeSlabs&) = delete;

  // Returns memory for `bytes`, a multiple of 64, or nullptr where the system has no huge pages, or
  // none left.
  void* Take(size_t bytes);
  // Gives memory of Take back, whose pages go back to the system at once. Returns false, and does
  // nothing, where it comes from elsewhere.
  bool Give(void* data, size_t bytes);

  size_t count() const;

 private:
  using Holes = std::map<size_t, size_t>;  // offset → bytes; no two touch each other

  mutable std::mutex mutex_;
  std::map<char*, Holes> slabs_;  // by address
};

}  // namespace lora
