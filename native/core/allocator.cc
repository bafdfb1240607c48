#include "core/allocator.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <limits>

namespace lora {
namespace {

constexpr size_t kMapFrom = size_t{256} << 10;
constexpr size_t kHugePage = size_t{2} << 20;

// A mapping that starts at a huge page.
void* MapHuge(size_t bytes) {
  const size_t total = bytes + kHugePage;
  void* raw = mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(raw);
  const size_t head = (kHugePage - reinterpret_cast<uintptr_t>(raw) % kHugePage) % kHugePage;
  char* data = begin + head;
  char* end = data + (bytes + 4095) / 4096 * 4096;
  if (head > 0) munmap(begin, head);
  if (end < begin + total) munmap(end, static_cast<size_t>(begin + total - end));
  madvise(data, bytes, MADV_HUGEPAGE);  // advice: a refusal changes nothing
  return data;
}

}  // namespace

void* HostMemory::Map(size_t bytes) {
  if (!budget_.TryReserve(bytes)) return nullptr;
  void* data = nullptr;
  if (bytes >= kHugePage) {
    data = MapHuge(bytes);
  } else if (bytes >= kMapFrom) {
    data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) data = nullptr;
  } else {
    data = std::aligned_alloc(64, bytes);
  }
  if (data == nullptr) budget_.Release(bytes);
  return data;
}

void HostMemory::Unmap(void* data, size_t bytes) {
  if (bytes >= kMapFrom)
    munmap(data, bytes);
  else
    std::free(data);
  budget_.Release(bytes);
}

Allocator::~Allocator() {
  for (const Block& block : Trim(0)) source_.Unmap(block.data, block.bytes);
}

size_t Allocator::RoundUp(size_t bytes) {
  if (bytes <= 64) return 64;
  if (bytes > std::numeric_limits<size_t>::max() / 4)
    return bytes / 64 * 64;  // will not be granted
  const size_t step = std::max<size_t>(64, std::bit_floor(bytes - 1) / 8);
  return (bytes + step - 1) / step * step;
}

Block Allocator::Allocate(size_t bytes) {
  const size_t size = RoundUp(bytes);
  // A block a little larger serves as well, so that lengths that vary a little share their blocks.
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
