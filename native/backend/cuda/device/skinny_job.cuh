// What the kernel in skinny.cuh is told, as it travels in the parameters of a launch.
//
// No struct has padding: GCC 12 clears the padding of structs in arrays at wrong places
// (-ftrivial-auto-var-init, in the emulator's build).
#pragma once

#include <type_traits>

#include "backend/cuda/device/primitives.h"

namespace lora::device {

constexpr int kSkinnyTiles = 8;     // most tiles of one job, of 8 ranks each
constexpr int kSkinnyJobs = 6;      // most jobs of one launch
constexpr int kSkinnyOutputs = 32;  // most tiles of one launch

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

// Up to 8 ranks of one adapter:
//   out[i·out_row + r·out_rank] = factor·Σ over depth,  t[i·t_pitch + r] = scale·out
struct SkinnyTile {
  const float* s;  // the first row of S (kDown), or the first column
  float* out;      // or null
  void* t;         // of SkinnyParams::dtype; or null
  int64_t s_pitch, out_row, out_rank;
  int32_t t_pitch;
  int16_t ranks, t_columns;  // t gets zeros from ranks to t_columns (8 or 16)
  float factor, scale;
};

// One Z, and the tiles of S that are multiplied with it.
template <class T>
struct SkinnyJob {
  const T* z;
  int64_t pitch, outs, depth, chunk;  // chunk: of depth, for a block
  int64_t first_block;
  float* partial;      // [splits, outs, tiles·8]
  uint32_t* counters;  // of each 128 outs, where there are several splits
  int splits;
  int first_tile, tiles, first_mask, masks;  // in SkinnyParams
  int z_aligned, s_aligned;                  // not 0: rows start at multiples of 16 bytes
  int unused;
  int8_t mask[kSkinnyTiles];  // of each tile: one of the job's, or -1; those of one are neighbors
};

}  // namespace lora::device
