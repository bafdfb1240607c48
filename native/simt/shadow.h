// Keeps shadow memory: for every two bytes of shared and global memory, who wrote and read them
// last, and when. Order is kept by vector clocks: an access is a race when the other one is later
// than what the thread knows.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "simt/location.h"

namespace lora::simt {

constexpr uint32_t kGranule = 2;

// Times of actors: [0, n) are a block's threads, [n, 2n) the asynchronous copies of each.
using Times = std::vector<uint32_t>;
struct Clock {
  Times times;
  // By its epoch, what each block had done that this one has heard of as the last to arrive.
  std::map<uint32_t, std::shared_ptr<const Times>> blocks;
};
using ClockRef = std::shared_ptr<const Clock>;

// The values of kReadOfBits are only stored again. kArrive is the atomic access of LastToArrive.
enum class Access : uint8_t { kRead, kWrite, kNonCoherentRead, kReadOfBits, kArrive };

// Stands in Cell::write_actor for all blocks that arrive at a counter.
constexpr uint16_t kArrivals = 0xffff;

// Actors of a warp that read at one site, each at the same time of its own: those whose bits are
// set. A warp mostly reads together, and what it reads after a SyncWarp stands for what it read
// before, so that there are few of these for a cell.
struct Readers {
  uint32_t bits;
  SiteId site;
  uint32_t clock;
  uint16_t warp;  // 32 actors in a row
};

struct Cell {
  Readers readers;  // the first of the block that read last
  uint16_t write_actor;
  SiteId write_site, other_site, non_coherent_site;
  uint32_t write_epoch, write_clock;
  uint32_t read_epoch;   // of that block
  uint32_t further;      // its further readers: index + 1 into the lists of this block
  uint32_t other_epoch;  // another block that has read it
  uint32_t non_coherent_epoch;
};

// Says who accesses memory, what it knows, and the time to record.
struct ActorView {
  const Clock* base;
  uint32_t thread, copies;  // actors whose time is fresher than in base
  uint32_t thread_clock, copies_clock;
  uint16_t actor;
  uint32_t clock;
  uint32_t Knows(uint32_t other) const {
    return other == thread ? thread_clock : other == copies ? copies_clock : base->times[other];
  }
  // Whether an access of another block comes before this one.
  bool KnowsOf(uint32_t epoch, uint32_t other, uint32_t time) const {
    const auto block = base->blocks.find(epoch);
    return block != base->blocks.end() && time <= (*block->second)[other];
  }
};

// Names the memory in reports; called only when there is one.
struct Place {
  const char* name;  // "shared memory" or the buffer's
  size_t offset;
  bool global;
};

const char* Verb(Access access);
void Touch(Cell& cell, const ActorView& actor, Access access, SiteId site, const Place& place);
// Forgets the readers' lists of the block before.
void ResetShadow();

}  // namespace lora::simt
