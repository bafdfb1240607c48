// How much memory this process may take, and how much of it is taken. malloc and mmap do not fail
// on Linux, so the host's allocators account here before they ask the system.
#pragma once

#include <atomic>
#include <cstddef>
#include <mutex>
#include <optional>
#include <string>

#include "core/runtime/host.h"

namespace lora {

// "1073741824", "512MiB", "2GiB", "1.5 GB", "64K": bytes; nothing where the text is no such thing.
std::optional<size_t> ParseBytes(const std::string& text);

class MemoryBudget {
 public:
  // No limit: what AvailableMemory leaves.
  explicit MemoryBudget(std::optional<size_t> limit) : limit_(limit) {}

  // False when that many more bytes are not there.
  bool TryReserve(size_t bytes);
  void Release(size_t bytes) { used_ -= bytes; }
  size_t used() const { return used_; }
  // Bytes that TryReserve would still grant.
  size_t free() const;

 private:
  size_t SystemFree() const;

  const std::optional<size_t> limit_;
  std::atomic<size_t> used_ = 0;
  // Asking the system costs a few file reads, so its answer is kept for the next 64 MiB.
  std::mutex mutex_;
  size_t granted_ = 0;
};

// The budget of the process, shared by all its environments, because memory is. LORA_MEMORY_LIMIT
// as it was at first use; throws ERR_ARGUMENT when that is no size.
MemoryBudget& HostMemoryBudget();

}  // namespace lora
