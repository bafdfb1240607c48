#include "core/runtime/huge_slabs.h"

#include <iterator>

#include "core/runtime/platform/platform.h"

namespace lora {
namespace {

// Of addresses; only pages that were written take memory.
constexpr size_t kSlabBytes = size_t{32} << 20;

// Checkers of memory find faults at the ends of blocks only where each is an allocation.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kChecksBlocks = true;
#else
constexpr bool kChecksBlocks = false;
#endif

}  // namespace

HugeSlabs::~HugeSlabs() {
  for (const auto& [data, holes] : slabs_) platform::UnmapPages(data, kSlabBytes);
}

void* HugeSlabs::Take(size_t bytes) {
  if (kChecksBlocks || !platform::kAdvisesHugePages) return nullptr;
  const std::lock_guard lock(mutex_);
  for (auto& [data, holes] : slabs_) {
    for (auto hole = holes.begin(); hole != holes.end(); ++hole) {
      const auto [offset, room] = *hole;
      if (room < bytes) continue;
      holes.erase(hole);
      if (room > bytes) holes.emplace(offset + bytes, room - bytes);
      return data + offset;
    }
  }
  auto* const data = static_cast<char*>(platform::MapHugePages(kSlabBytes));
  if (data != nullptr) slabs_[data].emplace(bytes, kSlabBytes - bytes);
  return data;
}

bool HugeSlabs::Give(void* block, size_t bytes) {
  const std::lock_guard lock(mutex_);
  auto* const at = static_cast<char*>(block);
  auto slab = slabs_.upper_bound(at);
  if (slab == slabs_.begin()) return false;
  --slab;
  auto& [data, holes] = *slab;
  size_t begin = static_cast<size_t>(at - data), end = begin + bytes;
  if (begin >= kSlabBytes) return false;
  platform::DropPages(at, bytes);
  auto next = holes.lower_bound(begin);
  if (next != holes.end() && next->first == end) {
    end += next->second;
    next = holes.erase(next);
  }
  if (next != holes.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == begin) {
      begin = before->first;
      holes.erase(before);
    }
  }
  if (end - begin == kSlabBytes) {
    platform::UnmapPages(data, kSlabBytes);
    slabs_.erase(slab);
  } else {
    holes.emplace(begin, end - begin);
  }
  return true;
}

size_t HugeSlabs::count() const {
  const std::lock_guard lock(mutex_);
  return slabs_.size();
}

}  // namespace lora
