// The first-level caches, at their weakest: a load gives what memory held when the launch began,
// where hardware may still have a line from then. So it is for what other blocks of the launch have
// written, unless a thread of this block has acquired since (LastToArrive); for every non-coherent
// load; and, before griddepcontrol.wait, for what the launches write that this one may overlap.
// Stores write through, and a block sees its own. Blocks that run one after another thereby see
// all that they may when they run at once, because nothing but counters orders them.
#include <array>
#include <cstring>
#include <unordered_map>

#include "simt/state.h"

namespace lora::simt {
namespace {

constexpr uintptr_t kLine = 128;
// Lines that were written since, as they were before, by their addresses.
using Lines = std::unordered_map<uintptr_t, std::array<unsigned char, kLine>>;
Lines before_launch, before_window;
uintptr_t last_kept = 0;

// What a load of old bytes has replaced in memory until the next event, by which it has happened.
struct Replaced {
  unsigned char* at = nullptr;
  size_t bytes = 0;
  unsigned char fresh[kMostOld];
} replaced;

}  // namespace

void BeginL1(bool further) {
  if (!further) Lines().swap(before_window);
  before_window.merge(before_launch);  // older lines stay
  Lines().swap(before_launch);         // which costs less than to clear many buckets
  last_kept = 0;
}

void KeepBeforeWrite(const void* p, size_t bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(p);
  for (uintptr_t line = begin / kLine * kLine; line < begin + bytes; line += kLine) {
    if (line == last_kept) continue;
    last_kept = line;
    const auto [kept, added] = before_launch.try_emplace(line);
    if (added) std::memcpy(kept->second.data(), reinterpret_cast<const void*>(line), kLine);
  }
}

Age AgeOf(const Cell& cell, Access access) {
  const bool load = access != Access::kWrite && access != Access::kArrive;
  if (!load || cell.write_epoch < world.window_epoch) return Age::kFresh;
  if (cell.write_epoch < world.launch_epoch)
    return world.options.programmatic && !world.self().dependency_waited ? Age::kBeforeWindow
                                                                         : Age::kFresh;
  if (access == Access::kNonCoherentRead) return Age::kBeforeLaunch;
  if (cell.write_epoch == world.epoch || world.acquired) return Age::kFresh;
  return Age::kBeforeLaunch;
}

void BeginOldLoad(const void* p, size_t bytes, const Age* ages) {
  auto* const to = static_cast<unsigned char*>(const_cast<void*>(p));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(p);
  replaced = {to, bytes, {}};
  std::memcpy(replaced.fresh, p, bytes);
  for (size_t i = 0; i < bytes; ++i) {
    if (ages[i] == Age::kFresh) continue;
    const Lines& lines = ages[i] == Age::kBeforeLaunch ? before_launch : before_window;
    const auto line = lines.find((begin + i) / kLine * kLine);
    if (line != lines.end()) to[i] = line->second[(begin + i) % kLine];
  }
}

void EndOldLoad() {
  if (replaced.at == nullptr) return;
  std::memcpy(replaced.at, replaced.fresh, replaced.bytes);
  replaced.at = nullptr;
}

}  // namespace lora::simt
