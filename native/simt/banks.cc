#include "simt/banks.h"

#include <algorithm>
#include <array>
#include <map>
#include <tuple>
#include <vector>

namespace lora::simt {
namespace {

constexpr int kLanes = 32, kBanks = 32, kWord = 4;

struct WarpAccess {
  int bytes = 0, count = 0;
  std::array<bool, kLanes> active{};
  std::array<uint32_t, kLanes> offsets{};
};
struct Passes {
  uint64_t needed = 0, least = 0;
};
// Counts how often a thread has come to each site since its last barrier.
struct Turns {
  uint32_t time = 0;
  std::map<Site, uint32_t> of;
};

using Key = std::tuple<int, Site, uint32_t, uint32_t>;  // warp, site, time of the barrier, turn
std::map<Key, WarpAccess> open;
std::vector<Turns> turns;
std::map<Site, Passes> places;

// Lanes are served 128 bytes at a time: the whole warp, a half or a quarter of it. One pass
// reads one word of each bank, for all lanes that want it.
void Close(Site site, const WarpAccess& access) {
  const int words = std::max(1, access.bytes / kWord), lanes = kLanes / words;
  for (int first = 0; first < kLanes; first += lanes) {
    std::array<std::vector<uint32_t>, kBanks> wanted;
    size_t most = 0;
    for (int lane = first; lane < first + lanes; ++lane) {
      if (!access.active[static_cast<size_t>(lane)]) continue;
      for (int i = 0; i < words; ++i) {
        const uint32_t word =
            access.offsets[static_cast<size_t>(lane)] / kWord + static_cast<uint32_t>(i);
        std::vector<uint32_t>& bank = wanted[word % kBanks];
        if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
        most = std::max(most, bank.size());
      }
    }
    if (most == 0) continue;
    places[site].needed += most;
    ++places[site].least;
  }
}

}  // namespace

void CountBanks(const void* p, int bytes, Site site) {
  if (!world.options.count_banks) return;
  const Thread& thread = world.self();
  const auto id = static_cast<size_t>(thread.id);
  if (turns.size() <= id) turns.resize(id + 1);
  if (turns[id].time != thread.own) turns[id] = {thread.own, {}};
  const Key key{thread.id / kLanes, site, thread.own, turns[id].of[site]++};
  WarpAccess& access = open[key];
  const auto lane = static_cast<size_t>(thread.id % kLanes);
  access.bytes = bytes;
  access.active[lane] = true;
  access.offsets[lane] = static_cast<uint32_t>(static_cast<const unsigned char*>(p) - world.shared);
  if (++access.count < kLanes) return;
  Close(site, access);
  open.erase(key);
}

void EndBanksOfBlock() {
  for (const auto& [key, access] : open) Close(std::get<Site>(key), access);
  open.clear();
  turns.clear();
}

void EndBanks(Result& result) {
  Site worst = 0;
  for (const auto& [site, passes] : places) {
    const double ratio = static_cast<double>(passes.needed) / static_cast<double>(passes.least);
    if (ratio <= result.worst_bank_conflict) continue;
    result.worst_bank_conflict = ratio;
    worst = site;
  }
  if (worst != 0) result.worst_bank_place = Resolve({worst})[0];
  places.clear();
}

}  // namespace lora::simt
