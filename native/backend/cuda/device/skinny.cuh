// out[i, r] = Σ over depth of Z[i, depth]·S[depth, r], where S has few columns:
//   kDown      Z = drop(x)  [rows, depth]      S = downᵀ, stored [r, depth]   gives H
//   kUp        Z = g        [rows, depth]      S = up, stored [depth, r]      gives U
//   kGradient  Z = drop(z)ᵀ, z [depth, outs]   S = u or h, stored [depth, r]  gives d_down, d_up
//
// Z is read once, which takes the time. A block owns 128 outs and one split of depth. Tiles of 16
// KiB of Z (rows of 128 bytes of x or g; in kGradient 128 columns) and the matching S are copied by
// cp.async through three stages of shared memory, or two (SkinnyStages). Each of the four
// warps owns 32 outs and keeps 32×(8 per tile of ranks) accumulators for mma.sync m16n8k16. What
// differs by form is in skinny_z.cuh and skinny_s.cuh.
//
// S is f32 and is not rounded: a float is the sum of three bf16 numbers, so three products of
// tensor cores give what one in f32 would. An f16 Z (two bf16 numbers) takes five and an f32 Z six;
// what they leave out of a product is below 2⁻²¹ of it. Infinities come out as NaN.
//
// The sums of all splits go to `partial`, and the block that stores the last of them adds them
// (skinny_finish.cuh). The last blocks of a launch cast factors (cast_factors.cuh).
#pragma once

#include <type_traits>

#include "backend/cuda/device/cast_factors.cuh"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/skinny_finish.cuh"
#include "backend/cuda/device/skinny_s.cuh"
#include "backend/cuda/device/skinny_z.cuh"

namespace lora::device {

enum class SkinnyForm { kDown, kUp, kGradient };

template <SkinnyForm kForm, class T>
struct SkinnyParams : SkinnyBlock<T> {
  using Z = std::conditional_t<kForm == SkinnyForm::kGradient, SkinnyZByDepth<T>, SkinnyZByOut<T>>;
  using S = std::conditional_t<kForm == SkinnyForm::kDown, SkinnySByRank<T>, SkinnySByDepth<T>>;
  static constexpr bool kSharedByCall = true;
  static constexpr int kZBytes = Z::kRows * Z::kCols * sizeof(T);
  static constexpr int kMaskWords = Z::kRows * Z::kCols / 16;

  int jobs;
  int stages;         // 2 or 3
  int stage_bytes;    // kZBytes + S::Bytes of the job with most tiles
  StoredDType dtype;  // of t
  SkinnyJob<T> job[kSkinnyJobs];
  SkinnyTile tile[kSkinnyOutputs];
  SkinnyMask mask[kSkinnyOutputs];
  FactorCasts casts;
};
// Before R530 drivers took no more, and CUDA 12 runs on R525.
static_assert(sizeof(SkinnyParams<SkinnyForm::kUp, BF16>) <= 4096);
static_assert(std::has_unique_object_representations_v<SkinnyJob<BF16>> &&
              std::has_unique_object_representations_v<SkinnyMask> &&
              std::has_unique_object_representations_v<FactorCasts>);

// A warp owns kOutTiles tiles of 16 outs.
constexpr int kOutTiles = 2;
using SkinnyAccumulators = float[kSkinnyTiles][kOutTiles][4];

// Stores the sums of a warp whose outs begin at `out0`.
template <class T>
LORA_DEVICE void StoreSkinnyPartials(const SkinnyJob<T>& job, int split, int64_t out0,
                                     const SkinnyAccumulators& acc) {
  const int lane = LaneIndex();
  const int width = job.tiles * 8;
  float* partial = job.partial + split * job.outs * width;
  LORA_UNROLL
  for (int i = 0; i < kOutTiles; ++i) {
    LORA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int64_t out = out0 + i * 16 + half * 8 + lane / 4;
      if (out >= job.outs) continue;
      LORA_UNROLL
      for (int t = 0; t < kSkinnyTiles; ++t) {
        if (t >= job.tiles) continue;
        *reinterpret_cast<FloatPair*>(partial + out * width + t * 8 + lane % 4 * 2) = {
            acc[t][i][half * 2], acc[t][i][half * 2 + 1]};
      }
    }
  }
}

template <SkinnyForm kForm, class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS((SkinnyParams<kForm, T>::kThreads),
                                    (SkinnyParams<kForm, T>::kMinBlocks))
    Skinny(const LORA_GRID_CONSTANT SkinnyParams<kForm, T> p) {
  using P = SkinnyParams<kForm, T>;
  using Z = typename P::Z;
  using S = typename P::S;
  LORA_DYNAMIC_SHARED(shared);
  if (BlockX() >= p.casts.first_block) return CastFactors<P::kThreads>(p.casts);
  int number = 0;
  while (number + 1 < p.jobs && BlockX() >= p.job[number + 1].first_block) ++number;
  const SkinnyJob<T>& job = p.job[number];
  const int block = static_cast<int>(BlockX() - job.first_block);
  const int out_blocks = static_cast<int>((job.outs + P::kOuts - 1) / P::kOuts);
  // Neighboring blocks share a split of S and are side by side in z.
  const int split = block / out_blocks;
  const int64_t out0 = int64_t{block % out_blocks} * P::kOuts;
  const int64_t begin = split * job.chunk;
  const int64_t end = begin + job.chunk < job.depth ? begin + job.chunk : job.depth;
  const int steps = static_cast<int>((end - begin + P::kDepth - 1) / P::kDepth);
  const int tiles = job.tiles, s_pitch = S::Pitch(tiles);
  uint32_t* masks = reinterpret_cast<uint32_t*>(shared + p.stages * p.stage_bytes);

  const auto load = [&](int n) {
    unsigned char* stage = shared + n % p.stages * p.stage_bytes;
    const int64_t depth0 = begin + int64_t{n} * P::kDepth;
    Z::Load(stage, job, out0, depth0);
    S::Load(stage + P::kZBytes, job, p.tile, depth0);
  };

  const int warp_out = WarpIndex() * kOutTiles * 16;
  SkinnyAccumulators acc;
  LORA_UNROLL
  for (int t = 0; t < kSkinnyTiles; ++t) {
    LORA_UNROLL
    for (int i = 0; i < kOutTiles; ++i) {
      LORA_UNROLL
      for (int c = 0; c < 4; ++c) acc[t][i][c] = 0.0f;
    }
  }

  const int ahead = p.stages - 1;
  for (int s = 0; s < ahead; ++s) {
    if (s < steps) load(s);
    CopyAsyncCommit();
  }
  for (int n = 0; n < steps; ++n) {
    if (ahead == 2) {
      CopyAsyncWait<1>();
    } else {
      CopyAsyncWait<0>();
    }
    // All copies to this stage have arrived, and all threads have finished with the masks and with
    // the stage that is filled next.
    SyncThreads();
    if (n + ahead < steps) load(n + ahead);
    CopyAsyncCommit();
    if (job.masks > 0) {
      Z::FillMasks(masks, job, p.mask, out0, begin + int64_t{n} * P::kDepth);
      SyncThreads();
    }
    const unsigned char* z_tile = shared + n % p.stages * p.stage_bytes;
    const float* s_tile = reinterpret_cast<const float*>(z_tile + P::kZBytes);
    LORA_UNROLL
    for (int step = 0; step < P::kDepth / 16; ++step) {
      SkinnyRaw<T> raw[kOutTiles];
      SkinnyTerms<T> z[kOutTiles];
      LORA_UNROLL
      for (int i = 0; i < kOutTiles; ++i) Z::LoadRaw(raw[i], z_tile, warp_out + i * 16, step);
      int mask = -2;  // the mask that was applied to z
      LORA_UNROLL
      for (int t = 0; t < kSkinnyTiles; ++t) {
        if (t >= tiles) continue;
        if (job.mask[t] != mask) {
          mask = job.mask[t];
          LORA_UNROLL
          for (int i = 0; i < kOutTiles; ++i) {
            uint32_t keep[4] = {3, 3, 3, 3};
            if (mask >= 0) {
              LORA_UNROLL
              for (int j = 0; j < 4; ++j)
                keep[j] = Z::Kept(masks + mask * P::kMaskWords, warp_out + i * 16, step, j);
            }
            SplitSkinny(z[i], raw[i], keep);
          }
        }
        uint32_t s[3][2];
        LoadSkinnyTerms<S>(s, s_tile, s_pitch, t, step);
        LORA_UNROLL
        for (int i = 0; i < kOutTiles; ++i) {
          LORA_UNROLL
          for (int of_z = SkinnyTerms<T>::kTerms - 1; of_z >= 0; --of_z) {
            LORA_UNROLL
            for (int of_s = 2 - of_z; of_s >= 0; --of_s)
              MmaM16N8K16<BF16>(acc[t][i], z[i].term[of_z], s[of_s]);
          }
        }
      }
    }
  }

  StoreSkinnyPartials(job, split, out0 + warp_out, acc);
  // The next launch may start now: it waits before it reads what this one writes.
  GridLaunchDependents();
  if (IsLastBlock(job.counters + out0 / P::kOuts, job.splits, reinterpret_cast<uint32_t*>(shared)))
    FinishSkinny(job, p.tile, p.dtype, out0);
}

}  // namespace lora::device
