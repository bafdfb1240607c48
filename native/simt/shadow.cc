#include "simt/shadow.h"

#include <algorithm>
#include <bit>
#include <deque>
#include <optional>

#include "simt/state.h"

namespace lora::simt {
namespace {

std::deque<std::vector<Readers>> lists;
size_t lists_used = 0;

// Returns the first of them of whom the actor does not know, or nobody.
std::optional<uint32_t> Unordered(const ActorView& actor, const Readers& r) {
  for (uint32_t bits = r.bits; bits != 0; bits &= bits - 1) {
    const uint32_t reader = r.warp * 32u + static_cast<uint32_t>(std::countr_zero(bits));
    if (r.clock > actor.Knows(reader)) return reader;
  }
  return std::nullopt;
}

void Race(const ActorView& actor, Access access, SiteId site, const Place& place, Access other,
          uint32_t other_actor, SiteId other_site) {
  if (!Fresh(Kind::kRace, SiteOfId(site), SiteOfId(other_site))) return;
  const Dim3& b = world.block_index;
  Record(Kind::kRace,
         "block (" + std::to_string(b.x) + "," + std::to_string(b.y) + "," + std::to_string(b.z) +
             "), " + place.name + " offset " + std::to_string(place.offset) + ": the " +
             Verb(access) + " by " + Actor(actor.actor) + " at %a is in no order with the " +
             Verb(other) + " by " + Actor(other_actor) + " at %b",
         SiteOfId(site), SiteOfId(other_site));
}

void CrossBlock(Access access, SiteId site, const Place& place, Access other, SiteId other_site) {
  if (!Fresh(Kind::kCrossBlock, SiteOfId(site), SiteOfId(other_site))) return;
  Record(Kind::kCrossBlock,
         Who() + ", " + place.name + " offset " + std::to_string(place.offset) + ": the " +
             Verb(access) + " at %a is in no order with another block's " + Verb(other) + " at %b",
         SiteOfId(site), SiteOfId(other_site));
}

void NonCoherent(SiteId load, SiteId write, const Place& place) {
  if (!Fresh(Kind::kNonCoherent, SiteOfId(load), SiteOfId(write))) return;
  Record(Kind::kNonCoherent,
         Who() + ", " + place.name + " offset " + std::to_string(place.offset) +
             ": the non-coherent load at %a may miss the write of the same launch at %b",
         SiteOfId(load), SiteOfId(write));
}

void AddReader(Cell& c, const ActorView& actor, SiteId site) {
  const auto warp = static_cast<uint16_t>(actor.actor / 32);
  const uint32_t bit = uint32_t{1} << actor.actor % 32;
  const auto alone = [&] { return Readers{bit, site, actor.clock, warp}; };
  if (c.read_epoch != world.epoch) {
    if (c.read_epoch >= world.launch_epoch) {
      c.other_epoch = c.read_epoch;
      c.other_site = c.readers.site;
    }
    c.read_epoch = world.epoch;
    c.further = 0;
    c.readers = alone();
    return;
  }
  const auto stands_for = [&](Readers& r) {
    if (r.clock == actor.clock && r.warp == warp) {
      if (r.site == site) r.bits |= bit;
      if (r.bits & bit) return true;
    }
    // What this reader knows of is covered by it: whoever comes after it comes after them.
    if (Unordered(actor, r)) return false;
    r = alone();
    return true;
  };
  if (stands_for(c.readers)) return;
  if (c.further == 0) {
    if (lists_used == lists.size()) lists.emplace_back();
    lists[lists_used].assign(1, alone());
    c.further = static_cast<uint32_t>(++lists_used);
    return;
  }
  auto& list = lists[c.further - 1];
  if (!std::ranges::any_of(list, stands_for)) list.push_back(alone());
}

void CheckReaders(const Cell& c, const ActorView& actor, SiteId site, const Place& place) {
  if (c.read_epoch == world.epoch) {
    const auto check = [&](const Readers& r) {
      if (const auto reader = Unordered(actor, r))
        Race(actor, Access::kWrite, site, place, Access::kRead, *reader, r.site);
    };
    check(c.readers);
    if (c.further) std::ranges::for_each(lists[c.further - 1], check);
  } else if (place.global && c.read_epoch >= world.launch_epoch) {
    CrossBlock(Access::kWrite, site, place, Access::kRead, c.readers.site);
  }
  if (place.global && c.other_epoch >= world.launch_epoch && c.other_epoch != world.epoch)
    CrossBlock(Access::kWrite, site, place, Access::kRead, c.other_site);
}

// A counter that blocks arrive at is for nothing else in that launch, whoever comes first.
bool IsAlsoCounter(Cell& c, Access access, SiteId site, const Place& place) {
  const bool written = c.write_epoch >= world.launch_epoch;
  if (access != Access::kArrive) {
    if (!written || c.write_actor != kArrivals) return false;
    CrossBlock(access, site, place, Access::kArrive, c.write_site);
    return true;
  }
  if (written && c.write_actor != kArrivals)
    CrossBlock(access, site, place, Access::kWrite, c.write_site);
  if (c.read_epoch >= world.launch_epoch)
    CrossBlock(access, site, place, Access::kRead, c.readers.site);
  c.write_epoch = world.epoch;
  c.write_actor = kArrivals;
  c.write_site = site;
  return true;
}

}  // namespace

const char* Verb(Access access) {
  return access == Access::kArrive ? "arrival" : access == Access::kWrite ? "write" : "read";
}

void ResetShadow() { lists_used = 0; }

void Touch(Cell& c, const ActorView& actor, Access access, SiteId site, const Place& place) {
  if (place.global && IsAlsoCounter(c, access, site, place)) return;
  const bool write = access == Access::kWrite;
  if (c.write_epoch == world.epoch) {
    if (c.write_clock > actor.Knows(c.write_actor))
      Race(actor, access, site, place, Access::kWrite, c.write_actor, c.write_site);
  } else if (place.global && c.write_epoch >= world.launch_epoch &&
             !actor.KnowsOf(c.write_epoch, c.write_actor, c.write_clock)) {
    CrossBlock(access, site, place, Access::kWrite, c.write_site);
  }
  if (write) {
    CheckReaders(c, actor, site, place);
    if (c.non_coherent_epoch >= world.launch_epoch) NonCoherent(c.non_coherent_site, site, place);
    // Readers of this block are ordered before the write or were reported, so the write stands for
    // them.
    if (c.read_epoch == world.epoch) c.read_epoch = 0;
    c.write_epoch = world.epoch;
    c.write_actor = actor.actor;
    c.write_clock = actor.clock;
    c.write_site = site;
    return;
  }
  if (place.global && world.options.programmatic && !world.self().dependency_waited &&
      c.write_epoch >= world.window_epoch && c.write_epoch < world.launch_epoch &&
      Fresh(Kind::kBeforeWait, SiteOfId(site), SiteOfId(c.write_site))) {
    Record(Kind::kBeforeWait,
           Who() + ", " + place.name + " offset " + std::to_string(place.offset) +
               ": the read at %a comes before griddepcontrol.wait, and the launch before wrote it "
               "at %b",
           SiteOfId(site), SiteOfId(c.write_site));
  }
  if (access == Access::kNonCoherentRead) {
    if (c.write_epoch >= world.launch_epoch) NonCoherent(site, c.write_site, place);
    c.non_coherent_epoch = world.epoch;
    c.non_coherent_site = site;
  }
  AddReader(c, actor, site);
}

}  // namespace lora::simt
