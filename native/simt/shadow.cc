#include "simt/shadow.h"

#include <algorithm>
#include <deque>

#include "simt/state.h"

namespace lora::simt {
namespace {

struct Reader {
  SiteId site;
  uint32_t clock;
  uint16_t actor;
};
std::deque<std::vector<Reader>> lists;  // each by rising actor
size_t lists_used = 0;

const char* Verb(Access access) { return access == Access::kWrite ? "write" : "read"; }

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
  if (c.read_epoch != world.epoch) {
    if (c.read_epoch >= world.launch_epoch) {
      c.other_epoch = c.read_epoch;
      c.other_site = c.read_site;
    }
    c.read_epoch = world.epoch;
    c.further = 0;
  } else if (c.further == 0 && c.read_actor != actor.actor &&
             c.read_clock > actor.Knows(c.read_actor)) {
    if (lists_used == lists.size()) lists.emplace_back();
    lists[lists_used].assign(1, {site, actor.clock, actor.actor});
    c.further = static_cast<uint32_t>(++lists_used);
    return;
  } else if (c.further != 0 && c.read_actor != actor.actor) {
    auto& list = lists[c.further - 1];
    // What this reader knows of is covered by it: whoever comes after it comes after them. A list
    // that stays long is searched for them as seldom as its length doubles.
    if (list.size() >= 8 && (list.size() & (list.size() - 1)) == 0)
      std::erase_if(list, [&](const Reader& r) { return r.clock <= actor.Knows(r.actor); });
    const auto place = std::ranges::lower_bound(list, actor.actor, {}, &Reader::actor);
    if (place != list.end() && place->actor == actor.actor) {
      *place = {site, actor.clock, actor.actor};
    } else {
      list.insert(place, {site, actor.clock, actor.actor});
    }
    return;
  }
  c.read_actor = actor.actor;
  c.read_clock = actor.clock;
  c.read_site = site;
}

void CheckReaders(const Cell& c, const ActorView& actor, SiteId site, const Place& place) {
  if (c.read_epoch == world.epoch) {
    if (c.read_clock > actor.Knows(c.read_actor))
      Race(actor, Access::kWrite, site, place, Access::kRead, c.read_actor, c.read_site);
    if (c.further)
      for (const Reader& r : lists[c.further - 1])
        if (r.clock > actor.Knows(r.actor))
          Race(actor, Access::kWrite, site, place, Access::kRead, r.actor, r.site);
  } else if (place.global && c.read_epoch >= world.launch_epoch) {
    CrossBlock(Access::kWrite, site, place, Access::kRead, c.read_site);
  }
  if (place.global && c.other_epoch >= world.launch_epoch && c.other_epoch != world.epoch)
    CrossBlock(Access::kWrite, site, place, Access::kRead, c.other_site);
}

}  // namespace

void ResetShadow() { lists_used = 0; }

void Touch(Cell& c, const ActorView& actor, Access access, SiteId site, const Place& place) {
  const bool write = access == Access::kWrite;
  if (c.write_epoch == world.epoch) {
    if (c.write_clock > actor.Knows(c.write_actor))
      Race(actor, access, site, place, Access::kWrite, c.write_actor, c.write_site);
  } else if (place.global && c.write_epoch >= world.launch_epoch) {
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
