#include "core/runtime/allocator.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "core/runtime/platform/platform.h"

namespace lora {
namespace {

// Where there are no slabs.
constexpr size_t kMapFrom = size_t{256} << 10;

bool FitsSlab(size_t bytes) { return HugeSlabs::kFrom <= bytes && bytes < HugeSlabs::kBelow; }

}  // namespace

void* HostMemory::Map(size_t bytes) {
  if (!budget_.TryReserve(bytes)) return nullptr;
  void* data = FitsSlab(bytes) ? slabs_.Take(bytes) : nullptr;
  if (data != nullptr) return data;
  if (bytes >= HugeSlabs::kBelow) {
    data = platform::MapHugePages(bytes);
  } else if (bytes >= kMapFrom) {
    data = platform::MapPages(bytes);
  } else {
    data = platform::AllocateAligned(64, bytes);
  }
  if (data == nullptr) budget_.Release(bytes);
  return data;
}

void HostMemory::Unmap(void* data, size_t bytes) {
  const bool given = FitsSlab(bytes) && slabs_.Give(data, bytes);
  if (!given && bytes >= kMapFrom) {
    platform::UnmapPages(data, bytes);
  } else if (!given) {
    platform::FreeAligned(data);
  }
  budget_.Release(bytes);
}

std::string HostMemory::limit() const {
  const auto& limit = budget_.limit();
  return limit ? "LORA_MEMORY_LIMIT = " + MiBText(*limit, Rounding::kDown) : "";
}

Allocator::~Allocator() {
  for (const Block& block : Trim(0)) source_.Unmap(block.data, block.bytes);
}

size_t Allocator::RoundUp(size_t bytes) {
  if (bytes <= 64) return 64;
  if (bytes > std::numeric_limits<size_t>::max() / 4)
    return bytes / 64 * 64;  // no system grants that
  const size_t step = std::max<size_t>(64, std::bit_floor(bytes - 1) / 8);
  return (bytes + step - 1) / step * step;
}

Block Allocator::Allocate(size_t bytes) {
  const size_t size = RoundUp(bytes);
  // A slightly larger block serves too, so that lengths that vary a little share their blocks.
  const auto found = free_.lower_bound(size);
  if (found != free_.end() && found->first <= size + size / 4) {
    const Block block{found->second.back(), found->first, false};
    found->second.pop_back();
    if (found->second.empty()) free_.erase(found);
    cached_ -= block.bytes;
    in_use_ += block.bytes;
    return block;
  }
  void* data = source_.Map(size);
  if (data == nullptr) return {};
  in_use_ += size;
  return {data, size, true};
}

void Allocator::Free(const Block& block) {
  if (block.data == nullptr) return;
  free_[block.bytes].push_back(block.data);
  in_use_ -= block.bytes;
  cached_ += block.bytes;
}

std::vector<Block> Allocator::Trim(size_t keep) {
  std::vector<Block> blocks;
  while (cached_ > keep) {
    const auto largest = std::prev(free_.end());
    blocks.push_back({largest->second.back(), largest->first, false});
    largest->second.pop_back();
    cached_ -= largest->first;
    if (largest->second.empty()) free_.erase(largest);
  }
  return blocks;
}

}  // namespace lora
