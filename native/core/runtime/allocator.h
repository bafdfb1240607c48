// Keeps blocks of device memory for reuse, in stream order: Free puts a block on the free list at
// once, though queued commands may still use it, because whatever uses it next is enqueued later
// and hence runs later. Only handing memory back to the system has to wait for the queue. One
// thread (the one that enqueues) owns an allocator.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "core/runtime/huge_slabs.h"
#include "core/runtime/memory_limit.h"

namespace lora {

// Gives an allocator its memory. Unmap may be called on any thread.
class MemorySource {
 public:
  virtual ~MemorySource() = default;
  virtual void* Map(size_t bytes) = 0;  // nullptr when there is too little; 64-byte aligned
  virtual void Unmap(void* data, size_t bytes) = 0;
  virtual size_t free() const = 0;
  // Returns what bounds it, for sentences: "LORA_MEMORY_LIMIT = 64 MiB"; empty without a bound.
  virtual std::string limit() const { return {}; }
};

// Takes memory from malloc for small blocks, from slabs of huge pages for larger ones and from
// mappings of their own from 2 MiB on, and accounts for it against a budget.
class HostMemory final : public MemorySource {
 public:
  explicit HostMemory(MemoryBudget& budget) : budget_(budget) {}
  void* Map(size_t bytes) override;
  void Unmap(void* data, size_t bytes) override;
  size_t free() const override { return budget_.free(); }
  std::string limit() const override;

 private:
  MemoryBudget& budget_;
  HugeSlabs slabs_;
};

struct Block {
  void* data = nullptr;
  size_t bytes = 0;    // of the block, at least what was asked for
  bool fresh = false;  // straight from the system: no command has ever used it
};

class Allocator {
 public:
  explicit Allocator(MemorySource& source) : source_(source) {}
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  // Returns a block without data when neither the free list nor the system has one.
  Block Allocate(size_t bytes);
  void Free(const Block& block);

  // Takes blocks off the free list, largest first, until it holds at most `keep` bytes. The caller
  // gives them to Unmap after the commands enqueued so far.
  std::vector<Block> Trim(size_t keep);
  // Tells whether the free list holds 256 MiB more than is in use.
  bool wants_trim() const { return cached_ > in_use_ + (size_t{256} << 20); }

  size_t in_use() const { return in_use_; }
  size_t cached() const { return cached_; }
  MemorySource& source() { return source_; }

  // Rounds up to one of eight sizes per power of two, which are multiples of 64.
  static size_t RoundUp(size_t bytes);

 private:
  MemorySource& source_;
  std::map<size_t, std::vector<void*>> free_;
  size_t in_use_ = 0;
  size_t cached_ = 0;
};

}  // namespace lora
