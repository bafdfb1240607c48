// y[i_perm…] = x[i…]. Bits are copied without conversion.
//
// Runs:  the innermost dimension is the same in both, and a thread copies 16 bytes of a run.
// Tiles: i runs along x and j along y. A block moves a tile of 128 bytes of i by as many j through
//        shared memory: it reads along i and writes along j, with 128 bytes per warp either way.
//        Elements of 2 bytes are moved in pairs. Rows of the tile are padded by one word, so that
//        neither pass has bank conflicts: where pairs of j are gathered, half a warp takes i and
//        the other half i + 2, which are the even and the odd banks.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/nest.cuh"

namespace lora::device {

// U is an unsigned integer as large as an element. Operand 0 of `outer` is y, 1 is x.
template <class U>
struct TransposeRunsParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr int kPerThread = 16 / sizeof(U);
  const U* x;
  U* y;
  int64_t runs, run;
  Nest<2> outer;
  LORA_HOST_DEVICE int64_t chunks() const { return (run + kPerThread - 1) / kPerThread; }
};

template <class U>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(TransposeRunsParams<U>::kThreads,
                                    TransposeRunsParams<U>::kMinBlocks)
    TransposeRuns(const LORA_GRID_CONSTANT TransposeRunsParams<U> p) {
  constexpr int kPerThread = TransposeRunsParams<U>::kPerThread;
  const auto [index, chunk] = Divide(GlobalIndex<TransposeRunsParams<U>::kThreads>(), p.chunks());
  if (index >= p.runs) return;
  const int64_t first = chunk * kPerThread;
  int64_t at[2] = {first, first};
  AddOffsets(p.outer, index, at);
  const U* x = p.x + at[1];
  U* y = p.y + at[0];
  if (p.run - first >= kPerThread && IsAligned16(x) && IsAligned16(y)) {
    StoreGlobal16(y, LoadGlobal16(x));
  } else {
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j)
      if (first + j < p.run) y[j] = x[j];
  }
}

template <class U>
struct TransposeTilesParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr int kTile = 128 / sizeof(U), kPitch = kTile + 4 / static_cast<int>(sizeof(U));
  static constexpr size_t kSharedBytes = size_t{kTile} * kPitch * sizeof(U);
  const U* x;
  U* y;
  int64_t size_i, size_j;
  int64_t x_pitch, y_pitch;  // of j in x, of i in y
  int64_t tiles_i, tiles_j;
  Nest<2> outer;
};

LORA_DEVICE bool IsAligned4(const void* p) { return reinterpret_cast<uintptr_t>(p) % 4 == 0; }

template <class U>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(TransposeTilesParams<U>::kThreads,
                                    TransposeTilesParams<U>::kMinBlocks)
    TransposeTiles(const LORA_GRID_CONSTANT TransposeTilesParams<U> p) {
  LORA_DYNAMIC_SHARED(shared);
  using Params = TransposeTilesParams<U>;
  constexpr int kTile = Params::kTile, kPitch = Params::kPitch, kWarps = Params::kThreads / 32;
  U* tile = reinterpret_cast<U*>(shared);
  const auto [rest, tile_i] = Divide(BlockX(), p.tiles_i);
  const auto [batch, tile_j] = Divide(rest, p.tiles_j);
  int64_t at[2] = {0, 0};
  AddOffsets(p.outer, batch, at);
  const int64_t i0 = tile_i * kTile, j0 = tile_j * kTile;
  const int lane = LaneIndex(), warp = WarpIndex();

  if constexpr (sizeof(U) == 4) {
    for (int row = warp; row < kTile; row += kWarps)
      if (j0 + row < p.size_j && i0 + lane < p.size_i)
        tile[row * kPitch + lane] = p.x[at[1] + (j0 + row) * p.x_pitch + i0 + lane];
    SyncThreads();
    for (int row = warp; row < kTile; row += kWarps)
      if (i0 + row < p.size_i && j0 + lane < p.size_j)
        p.y[at[0] + (i0 + row) * p.y_pitch + j0 + lane] = tile[lane * kPitch + row];
  } else {
    static_assert(sizeof(U) == 2);
    for (int row = warp; row < kTile; row += kWarps) {
      const int64_t i = i0 + 2 * lane;
      if (j0 + row >= p.size_j || i >= p.size_i) continue;
      const U* x = p.x + at[1] + (j0 + row) * p.x_pitch + i;
      U* cell = tile + row * kPitch + 2 * lane;
      if (i + 1 < p.size_i) {
        *reinterpret_cast<uint32_t*>(cell) = IsAligned4(x) ? *reinterpret_cast<const uint32_t*>(x)
                                                           : uint32_t{x[0]} | uint32_t{x[1]} << 16;
      } else {
        cell[0] = x[0];
      }
    }
    SyncThreads();
    for (int pass = warp; pass < kTile; pass += kWarps) {
      const int row = pass / 4 * 4 + pass / 2 % 2 + lane / 16 * 2;
      const int column = pass % 2 * 32 + lane % 16 * 2;
      const int64_t i = i0 + row, j = j0 + column;
      if (i >= p.size_i || j >= p.size_j) continue;
      const U low = tile[column * kPitch + row];
      U* y = p.y + at[0] + i * p.y_pitch + j;
      if (j + 1 < p.size_j) {
        const U high = tile[(column + 1) * kPitch + row];
        if (IsAligned4(y)) {
          *reinterpret_cast<uint32_t*>(y) = uint32_t{low} | uint32_t{high} << 16;
        } else {
          y[0] = low;
          y[1] = high;
        }
      } else {
        y[0] = low;
      }
    }
  }
}

}  // namespace lora::device
