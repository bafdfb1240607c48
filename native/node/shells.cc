#include "node/shells.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <utility>

namespace lora::node {

std::optional<Shell>* Shells::SlotOf(const void* address) const {
  auto block = BlockBehind(address);
  if (block == blocks_.begin()) return nullptr;
  Block& slots = **--block;
  const auto distance = static_cast<size_t>(static_cast<const std::byte*>(address) -
                                            reinterpret_cast<const std::byte*>(slots.data()));
  const size_t index = distance / sizeof(slots[0]);
  if (index >= slots.size()) return nullptr;
  std::optional<Shell>& slot = slots[index];
  return slot && &*slot == address ? &slot : nullptr;
}

Shell* Shells::Find(const void* address) const {
  std::optional<Shell>* const slot = SlotOf(address);
  return slot != nullptr ? &**slot : nullptr;
}

Shell* Shells::Add(Shell shell) {
  if (free_.empty()) {
    auto block = std::make_unique<Block>();
    for (auto slot = block->rbegin(); slot != block->rend(); ++slot) free_.push_back(&*slot);
    blocks_.insert(BlockBehind(block.get()), std::move(block));
  }
  std::optional<Shell>& slot = *free_.back();
  free_.pop_back();
  ++size_;
  return &slot.emplace(std::move(shell));
}

void Shells::Remove(Shell* shell) {
  std::optional<Shell>* const slot = SlotOf(shell);
  slot->reset();
  free_.push_back(slot);
  --size_;
}

Shells::Blocks::const_iterator Shells::BlockBehind(const void* address) const {
  return std::upper_bound(
      blocks_.begin(), blocks_.end(), address,
      [](const void* a, const auto& block) { return std::less<>()(a, block.get()); });
}

}  // namespace lora::node
