// Counts how much memory this process may take, and how much it has taken. malloc and mmap do not
// fail on Linux, so the host's allocators account here before they ask the system.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "core/runtime/host.h"

namespace lora {

// Reads bytes from "1073741824", "512MiB", "2GiB", "1.5 GB" or "64K"; nothing from other texts.
std::optional<size_t> ParseBytes(const std::string& text);

// Reads the bytes that an environment variable sets; nothing where it is not set or empty. Throws
// ERR_ARGUMENT, which names the variable, when it is no size.
std::optional<size_t> BytesFromEnvironment(const char* name);

// Writes bytes as "1.25 MiB". What is needed is rounded up and what is free down, to hundredths, so
// that a sentence with both does not contradict itself.
enum class Rounding : uint8_t { kUp, kDown };
std::string MiBText(size_t bytes, Rounding rounding);

class MemoryBudget {
 public:
  // Without a limit, the budget is what AvailableMemory(files) leaves.
  explicit MemoryBudget(std::optional<size_t> limit, SystemFiles files = {})
      : limit_(limit), files_(std::move(files)) {}

  // Returns false when that many more bytes are not there.
  bool TryReserve(size_t bytes);
  void Release(size_t bytes) { used_ -= bytes; }
  size_t used() const { return used_; }
  const std::optional<size_t>& limit() const { return limit_; }
  // Returns the bytes that TryReserve would still grant.
  size_t free() const;

 private:
  size_t SystemFree() const;

  const std::optional<size_t> limit_;
  const SystemFiles files_;
  std::atomic<size_t> used_ = 0;
  // Asking the system costs a few file reads, so its answer is kept for the next 64 MiB.
  std::mutex mutex_;
  size_t granted_ = 0;
};

// Returns the budget of the process, which all its environments share, because memory is shared.
// The limit is LORA_MEMORY_LIMIT as it was at first use; throws ERR_ARGUMENT when that is no size.
MemoryBudget& HostMemoryBudget();

}  // namespace lora
