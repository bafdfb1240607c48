// The end of skinny.cuh: the last of the blocks that share a tile of outs adds the partial sums of
// all splits in their order, scales and rounds. So the bits depend on no order of blocks.
#pragma once

#include "backend/cuda/device/last_block.cuh"
#include "backend/cuda/device/skinny_job.cuh"
#include "backend/cuda/device/store_as.cuh"

namespace lora::device {

// Writes the results of 128 outs, one for a thread. `tiles` are those of the launch.
template <class T>
LORA_DEVICE void FinishSkinny(const SkinnyJob<T>& job, const SkinnyTile (&tiles)[kSkinnyOutputs],
                              StoredDType dtype, int64_t out0) {
  static_assert(SkinnyBlock<T>::kOuts == SkinnyBlock<T>::kThreads);
  const int64_t i = out0 + ThreadIndex();
  if (i >= job.outs) return;
  LORA_ROLL
  for (int n = 0; n < job.tiles; ++n) {
    const SkinnyTile& tile = tiles[job.first_tile + n];
    float sums[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    AddAlignedParts<8>(sums, job.partial + (i * job.tiles + n) * 8, job.outs * job.tiles * 8,
                       job.splits, [](int) { return 1.0f; });
    LORA_UNROLL
    for (int r = 0; r < 8; ++r) {
      sums[r] *= tile.factor;
      if (tile.out != nullptr && r < tile.ranks)
        tile.out[i * tile.out_row + r * tile.out_rank] = sums[r];
    }
    if (tile.t == nullptr) continue;
    LORA_UNROLL
    for (int r = 0; r < 16; ++r) {
      if (r >= tile.t_columns) continue;
      StoreAs(dtype, tile.t, i * tile.t_pitch + r,
              r < 8 && r < tile.ranks ? sums[r % 8] * tile.scale : 0.0f);
    }
  }
}

}  // namespace lora::device
