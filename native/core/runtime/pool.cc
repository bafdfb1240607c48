#include "core/runtime/pool.h"

#include <utility>

#include "core/runtime/storage.h"

namespace lora {

Pool::Pool(std::shared_ptr<Device> device) : device_(std::move(device)) {}

Pool::~Pool() { Close(); }

Block Pool::Allocate(size_t bytes) {
  const size_t size = Allocator::RoundUp(bytes);
  // As in the allocator, a slightly larger block serves too.
  const auto found = free_.lower_bound(size);
  if (found != free_.end() && found->first <= size + size / 4) {
    const Block block = found->second;
    free_.erase(found);
    return block;
  }
  Block block = device_->allocator().Allocate(bytes);
  block.fresh = false;
  if (block.data != nullptr) device_->Count(static_cast<int64_t>(block.bytes));
  return block;
}

void Pool::Free(const Block& block) {
  if (closed_)
    device_->GiveBack(block, block.bytes);
  else
    free_.emplace(block.bytes, block);
}

void Pool::Close() {
  closed_ = true;
  for (const auto& [bytes, block] : std::exchange(free_, {})) device_->GiveBack(block, bytes);
}

}  // namespace lora
