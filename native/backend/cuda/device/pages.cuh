// CheckPages finds the first sequence with a length that is out of range, or with a page that is,
// of a position it uses. One block does it; its threads take the lengths and the entries of the
// table in turn, those of a sequence after its length.
#pragma once

#include "backend/cuda/device/attention.cuh"
#include "backend/cuda/device/first_bad.cuh"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/reduce.cuh"

namespace lora::device {

struct PageReport {
  uint64_t
      first_bad;  // b·(max_pages + 1), plus 1 + column for a page; kNoBadId where there is none
  int32_t bad;    // what stands there
};

struct CheckPagesParams {
  static constexpr int kThreads = 512, kMinBlocks = 1;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(uint64_t);
  const int32_t* table;    // [batch, max_pages]
  const int32_t* lengths;  // [batch]
  int64_t batch, max_pages, pages;
  int64_t count, window;  // UsedPositions (core/ops/pages.h)
  PageReport* report;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(CheckPagesParams::kThreads, CheckPagesParams::kMinBlocks)
    CheckPages(const LORA_GRID_CONSTANT CheckPagesParams p) {
  constexpr int kThreads = CheckPagesParams::kThreads;
  LORA_DYNAMIC_SHARED(shared);
  const int64_t entries = p.max_pages + 1;
  uint64_t first_bad = kNoBadId;
  for (int64_t i = ThreadIndex(); i < p.batch * entries; i += kThreads) {
    const int64_t b = i / entries, column = i % entries - 1, length = p.lengths[b];
    bool bad = length < p.count || length > p.max_pages * kPageKeys;
    if (column >= 0) {
      if (bad) continue;
      const int64_t first = p.window == 0 ? 0 : length - p.count - p.window + 1;
      if (column < (first < 0 ? 0 : first) / kPageKeys || column * kPageKeys >= length) continue;
      const int32_t page = p.table[b * p.max_pages + column];
      bad = page < 0 || page >= p.pages;
    }
    if (bad && first_bad == kNoBadId) first_bad = static_cast<uint64_t>(i);
  }
  first_bad = BlockReduce<kThreads>(first_bad, reinterpret_cast<uint64_t*>(shared), Min());
  if (ThreadIndex() != 0) return;
  int32_t value = 0;
  if (first_bad != kNoBadId) {
    const int64_t at = static_cast<int64_t>(first_bad), b = at / entries, column = at % entries - 1;
    value = column < 0 ? p.lengths[b] : p.table[b * p.max_pages + column];
  }
  *p.report = {first_bad, value};
}

}  // namespace lora::device
