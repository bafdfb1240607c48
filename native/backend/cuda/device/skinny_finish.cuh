// The end of skinny.cuh: the last of the blocks that share a tile of outs adds the partial sums of
// all splits in their order, scales and rounds. So the bits depend on no order of blocks.
#pragma once

#include "backend/cuda/device/skinny_job.cuh"
#include "backend/cuda/device/store_as.cuh"

namespace lora::device {

// Tells whether this block is the last to have stored its part of the sums, which the others then
// have as well: all of its threads may read them. The block uses one word of shared memory.
template <class T>
LORA_DEVICE bool LastOfSkinnyTile(const SkinnyJob<T>& job, int64_t out0, uint32_t* word) {
  SyncThreads();
  if (job.splits == 1) return true;
  if (ThreadIndex() == 0)
    *word = LastToArrive(job.counters + out0 / SkinnyBlock<T>::kOuts, job.splits) ? 1 : 0;
  SyncThreads();
  return *word != 0;
}

// Adds the sums of the splits for the 8 ranks of a tile of `job`, from `from` on: those of one out.
template <class T>
LORA_DEVICE void AddSkinnySplits(float (&sums)[8], const SkinnyJob<T>& job, const float* from) {
  constexpr int kAtOnce = 8;  // so many splits are loaded before the first is added
  const int64_t pitch = job.outs * job.tiles * 8;
  LORA_ROLL
  for (int split = 0; split < job.splits; split += kAtOnce) {
    Vec16 raw[kAtOnce][2];
    LORA_UNROLL
    for (int n = 0; n < kAtOnce; ++n) {
      if (split + n >= job.splits) continue;
      raw[n][0] = LoadGlobal16(from + (split + n) * pitch);
      raw[n][1] = LoadGlobal16(from + (split + n) * pitch + 4);
    }
    LORA_UNROLL
    for (int n = 0; n < kAtOnce; ++n) {
      if (split + n >= job.splits) continue;
      LORA_UNROLL
      for (int r = 0; r < 8; ++r) sums[r] += BitsToFloat(raw[n][r / 4].words[r % 4]);
    }
  }
}

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
    AddSkinnySplits(sums, job, job.partial + (i * job.tiles + n) * 8);
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
