// Emulates LastToArrive. A call releases what its thread knows. Of the blocks that come to a
// counter only the last acquires that: another one does not know which blocks came before it.
#include "backend/cuda/device/primitives.h"
#include "simt/state.h"

namespace lora::simt {
namespace {

// Returns the counter as this launch knows it, after checks of what would make a block the last too
// early, too late or never.
Counter& CounterOf(const uint32_t* word, int blocks, Site site) {
  Counter& counter = world.counters[word];
  if (counter.arrived.empty()) {
    counter.expected = blocks;
    if (*word != 0)
      Fatal(Kind::kArrival,
            "the first block arrives at %a, and the counter is " + std::to_string(*word) + " there",
            site);
  }
  if (blocks < 1 || counter.expected != blocks)
    Fatal(Kind::kArrival,
          "arrives at %a as one of " + std::to_string(blocks) + " blocks, and others came as of " +
              std::to_string(counter.expected) + ", at %b",
          site, SiteOf(counter.loc));
  for (const Counter::Block& block : counter.arrived)
    if (block.epoch == world.epoch)
      Fatal(Kind::kArrival, "the block arrives at %a a second time", site);
  if (counter.IsComplete())
    Fatal(Kind::kArrival,
          "arrives at %a, where " + std::to_string(blocks) + " blocks came before, at %b", site,
          SiteOf(counter.loc));
  return counter;
}

}  // namespace

void CheckCounters() {
  for (const auto& [word, counter] : world.counters) {
    if (counter.IsComplete()) continue;
    const Site site = SiteOf(counter.loc);
    if (Fresh(Kind::kArrival, site))
      Record(Kind::kArrival,
             std::to_string(counter.arrived.size()) + " of " + std::to_string(counter.expected) +
                 " blocks have arrived at %a, so that none was the last, and the next launch does "
                 "not find the counter at 0",
             site);
  }
}

}  // namespace lora::simt

namespace lora::device {

using simt::world;

bool LastToArrive(uint32_t* word, int blocks, Loc loc) {
  const simt::Inside inside;
  simt::CheckLastStore();
  const simt::Site site = simt::SiteOf(loc);
  if (world.InShared(word))
    simt::Fatal(simt::Kind::kHostPointer, "a counter in shared memory, at %a", site);
  simt::CheckGlobal(word, sizeof *word, simt::Access::kArrive, site);
  simt::Counter& counter = simt::CounterOf(word, blocks, site);
  counter.loc = loc;
  simt::Thread& self = world.self();
  counter.arrived.push_back({world.epoch, simt::Join({simt::ArriveNow(self)})});
  *word = counter.IsComplete() ? 0 : *word + 1;
  if (!counter.IsComplete()) return false;
  if (!world.options.acquires) return true;
  world.acquired = true;
  simt::Clock heard = *self.base;
  for (const simt::Counter::Block& block : counter.arrived) {
    for (const auto& [epoch, times] : block.done->blocks) simt::Hear(heard, epoch, times);
    if (block.epoch == world.epoch) continue;
    simt::Hear(heard, block.epoch, std::make_shared<const simt::Times>(block.done->times));
  }
  self.base = std::make_shared<const simt::Clock>(std::move(heard));
  return true;
}

}  // namespace lora::device
