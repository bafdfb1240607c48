// positions[b, i] = max(lengths[b] − count + i, 0).
#pragma once

#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/launch.h"

namespace lora::device {

struct PositionsParams {
  static constexpr int kThreads = 128, kMinBlocks = 4;
  const int32_t* lengths;  // [batch]
  int32_t* positions;      // [batch, count]
  int64_t batch, count;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(PositionsParams::kThreads, PositionsParams::kMinBlocks)
    Positions(const LORA_GRID_CONSTANT PositionsParams p) {
  const int64_t at = GlobalIndex<PositionsParams::kThreads>();
  const auto [b, i] = Divide(at, p.count);
  if (b >= p.batch) return;
  const int64_t position = p.lengths[b] - p.count + i;
  p.positions[at] = position < 0 ? 0 : static_cast<int32_t>(position);
}

}  // namespace lora::device
