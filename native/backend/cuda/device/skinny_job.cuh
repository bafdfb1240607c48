// Jobs of the kernels in skinny.cuh as they travel in the parameters of a launch.
//
// No struct has padding: GCC 12 clears the padding of structs in arrays at wrong places
// (-ftrivial-auto-var-init, in the emulator's build).
#pragma once

#include <type_traits>

#include "backend/cuda/device/primitives.h"

namespace lora::device {

constexpr int kSkinnyTiles = 8;  // most tiles of one job, of 8 ranks each
constexpr int kSkinnyJobs = 6;   // most jobs of one launch

// The work of a block: kOuts outs, and kDepth of depth in each stage.
template <class T>
struct SkinnyBlock {
  static constexpr int kThreads = 128, kOuts = 128, kDepth = 128 / sizeof(T);
  static constexpr int kMinBlocks = std::is_same_v<T, BF16> ? 3 : 2;
};

// The dropout of Z.
struct SkinnyMask {
  uint64_t seed;
  uint32_t layer, forward, threshold, unused;
};

// Up to 8 ranks of one adapter.
struct SkinnyTile {
  const float* s;  // the first row of S (kDown), or the first column
  int64_t pitch;
  int ranks;
  int mask;  // index into the job's masks, or -1; tiles with one mask are neighbours
};

template <class T>
struct SkinnyJob {
  const T* z;
  int64_t pitch, outs, depth, chunk;
  int64_t first_block;
  float* partial;  // [splits, outs, tiles·8]
  int tiles, masks;
  int z_aligned, s_aligned;  // not 0: rows start at multiples of 16 bytes
  SkinnyTile tile[kSkinnyTiles];
  SkinnyMask mask[kSkinnyTiles];
};

}  // namespace lora::device
