// The factor S of skinny.cuh, in f32: its tile in shared memory, and its fragments.
//
// There are two layouts. Each has
//   Pitch, Bytes(tiles)     floats from one row of the tile to the next, and bytes of the tile
//   Load(s, job, tiles, depth0)   fills the tile; `tiles` are those of the launch
//   Pair(s, pitch, t, k)    elements k and k + 1 of depth of this lane's rank of tile t
// The pitches keep the fragments' loads apart in the banks.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/skinny_job.cuh"
#include "backend/cuda/device/skinny_split.cuh"

namespace lora::device {

// Copies four floats, of which `left` exist, and zeros for the others.
LORA_DEVICE void CopyFloats(unsigned char* target, const float* source, const float* any,
                            int64_t left, bool aligned) {
  const int count = left < 0 ? 0 : left < 4 ? static_cast<int>(left) : 4;
  if (aligned) {
    CopyAsync<16>(target, count ? source : any, count * 4);
  } else {
    LORA_UNROLL
    for (int j = 0; j < 4; ++j)
      CopyAsync<4>(target + j * 4, j < count ? source + j : any, j < count ? 4 : 0);
  }
}

// The layout of kDown: rows of S are ranks.
template <class T>
struct SkinnySByRank {
  static constexpr int kThreads = SkinnyBlock<T>::kThreads, kDepth = SkinnyBlock<T>::kDepth;

  // Eight words beyond a multiple of 32.
  LORA_HOST_DEVICE static int Pitch(int) { return kDepth + 8; }
  LORA_HOST_DEVICE static int Bytes(int tiles) { return tiles * 8 * Pitch(tiles) * 4; }

  LORA_DEVICE static void Load(unsigned char* s, const SkinnyJob<T>& job,
                               const SkinnyTile (&tiles)[kSkinnyOutputs], int64_t depth0) {
    constexpr int kChunks = kDepth / 4;
    const int pitch = Pitch(job.tiles) * 4;
    for (int t = 0; t < job.tiles; ++t) {
      const SkinnyTile& tile = tiles[job.first_tile + t];
      for (int index = ThreadIndex(); index < 8 * kChunks; index += kThreads) {
        const int r = index / kChunks, chunk = index % kChunks;
        const int64_t depth = depth0 + chunk * 4;
        CopyFloats(s + (t * 8 + r) * pitch + chunk * 16, tile.s + r * tile.s_pitch + depth, tile.s,
                   r < tile.ranks ? job.depth - depth : 0, job.s_aligned != 0);
      }
    }
  }

  LORA_DEVICE static FloatPair Pair(const float* s, int pitch, int t, int k) {
    const int r = t * 8 + LaneIndex() / 4;
    return *reinterpret_cast<const FloatPair*>(s + r * pitch + k);
  }
};

// The layout of kUp and kGradient: rows of S are steps of depth.
template <class T>
struct SkinnySByDepth {
  static constexpr int kThreads = SkinnyBlock<T>::kThreads, kDepth = SkinnyBlock<T>::kDepth;

  // Four words beyond a multiple of 16.
  LORA_HOST_DEVICE static int Pitch(int tiles) { return (tiles + 1) / 2 * 16 + 4; }
  LORA_HOST_DEVICE static int Bytes(int tiles) { return kDepth * Pitch(tiles) * 4; }

  LORA_DEVICE static void Load(unsigned char* s, const SkinnyJob<T>& job,
                               const SkinnyTile (&tiles)[kSkinnyOutputs], int64_t depth0) {
    const int pitch = Pitch(job.tiles) * 4;
    for (int t = 0; t < job.tiles; ++t) {
      const SkinnyTile& tile = tiles[job.first_tile + t];
      for (int index = ThreadIndex(); index < kDepth * 2; index += kThreads) {
        const int k = index / 2, r = index % 2 * 4;
        const int64_t depth = depth0 + k;
        CopyFloats(s + k * pitch + (t * 8 + r) * 4, tile.s + depth * tile.s_pitch + r, tile.s,
                   depth < job.depth ? tile.ranks - r : 0, job.s_aligned != 0);
      }
    }
  }

  LORA_DEVICE static FloatPair Pair(const float* s, int pitch, int t, int k) {
    const int r = t * 8 + LaneIndex() / 4;
    return {s[k * pitch + r], s[(k + 1) * pitch + r]};
  }
};

// Loads the fragment of S for tile t and 16 steps of depth, split in three.
template <class S>
LORA_DEVICE void LoadSkinnyTerms(uint32_t (&terms)[3][2], const float* s, int pitch, int t,
                                 int step) {
  LORA_UNROLL
  for (int j = 0; j < 2; ++j) {
    FloatPair pair = S::Pair(s, pitch, t, step * 16 + LaneIndex() % 4 * 2 + j * 8);
    LORA_UNROLL
    for (int n = 0; n < 3; ++n) terms[n][j] = SplitPair(pair.low, pair.high);
  }
}

}  // namespace lora::device
