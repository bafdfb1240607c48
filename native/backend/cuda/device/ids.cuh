// Finds the first of `count` ids that is outside [0, limit) and not equal to `ignored`, and counts
// the ids inside. One block does it; its threads take ids in turn.
#pragma once

#include "backend/cuda/device/first_bad.cuh"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/reduce.cuh"

namespace lora::device {

struct IdReport {
  uint64_t first_bad;  // kNoBadId where there is none
  uint64_t inside;
  int32_t bad;  // the id at first_bad
};

struct CheckIdsParams {
  static constexpr int kThreads = 512, kMinBlocks = 1;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(uint64_t);
  const int32_t* ids;
  int64_t count, limit, ignored;
  IdReport* report;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(CheckIdsParams::kThreads, CheckIdsParams::kMinBlocks)
    CheckIds(const LORA_GRID_CONSTANT CheckIdsParams p) {
  constexpr int kThreads = CheckIdsParams::kThreads;
  LORA_DYNAMIC_SHARED(shared);
  uint64_t* slots = reinterpret_cast<uint64_t*>(shared);
  uint64_t first_bad = kNoBadId, inside = 0;
  for (int64_t i = ThreadIndex(); i < p.count; i += kThreads) {
    const int32_t id = p.ids[i];
    if (id >= 0 && id < p.limit) {
      ++inside;
    } else if (id != p.ignored && first_bad == kNoBadId) {
      first_bad = static_cast<uint64_t>(i);
    }
  }
  first_bad = BlockReduce<kThreads>(first_bad, slots, Min());
  inside = BlockSum<kThreads>(inside, slots);
  if (ThreadIndex() == 0)
    *p.report = {first_bad, inside, first_bad == kNoBadId ? 0 : p.ids[first_bad]};
}

}  // namespace lora::device
