// A product of logits: c = a·bᵀ in f32, and what the log-sum of each row needs, so that nobody
// reads c for it. A row has a part for each warp that owns columns of it, at most kWarpN: the
// largest of them, and the sum of exponentials relative to it. RowLoss (cross_entropy.cuh) adds the
// parts.
#pragma once

#include "backend/cuda/device/gemm_mma.cuh"
#include "backend/cuda/device/reduce.cuh"
#include "backend/cuda/device/softmax.cuh"

namespace lora::device {

template <class Tile>
struct GemmRowSumsParams : GemmParams<Tile> {
  FloatPair* parts;  // [m, 2 for each tile column]: largest, sum
};

// Stores the parts of the warp's rows. All lanes must call.
template <class Tile>
LORA_DEVICE void StoreRowSums(const GemmEpilogue& p, const GemmPlace& place,
                              const GemmAccumulators<Tile>& acc, FloatPair* parts) {
  const float minus_infinity = BitsToFloat(kMinusInfinityBits);
  const int q = LaneIndex() % 4, columns = WarpIndex() % 2;
  const int row0 = place.m0 + WarpIndex() / 2 * Tile::kWarpM + LaneIndex() / 4;
  const int col0 = place.n0 + columns * Tile::kWarpN + q * 2;
  const int count = (p.n + Tile::kN - 1) / Tile::kN * 2;
  const int part = place.n0 / Tile::kN * 2 + columns;
  LORA_UNROLL
  for (int i = 0; i < Tile::kRowTiles; ++i) {
    LORA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const auto at = [&](int j, int e) {
        return col0 + j * 8 + e < p.n ? acc[i][j][half * 2 + e] : minus_infinity;
      };
      float largest = minus_infinity, sum = 0.0f;
      LORA_UNROLL
      for (int j = 0; j < Tile::kColTiles; ++j) largest = Max()(Max()(largest, at(j, 0)), at(j, 1));
      largest = WarpReduce<4>(largest, Max());
      const float base = largest == minus_infinity ? 0.0f : largest;
      LORA_UNROLL
      for (int j = 0; j < Tile::kColTiles; ++j) sum += Exp(at(j, 0) - base) + Exp(at(j, 1) - base);
      sum = WarpSum<4>(sum);
      const int row = row0 + i * 16 + half * 8;
      if (q == 0 && row < p.m) parts[int64_t{row} * count + part] = {largest, sum};
    }
  }
}

template <class T, class Tile>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(Tile::kThreads, Tile::kMinBlocks)
    GemmMmaRowSums(const LORA_GRID_CONSTANT GemmRowSumsParams<Tile> params) {
  LORA_DYNAMIC_SHARED(shared);
  RunGemmMma<T, Tile, false, true, false>(
      params, shared,
      [&](const GemmEpilogue& p, const GemmPlace& place, const GemmAccumulators<Tile>& acc) {
        StoreRowSums<Tile>(p, place, acc, params.parts);
      });
}

}  // namespace lora::device
