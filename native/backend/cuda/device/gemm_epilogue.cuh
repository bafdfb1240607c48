// The epilogue of the product on tensor cores: c = alpha·factor ⊙ acc + bias + addend, rounded
// once.
//
// Lane q of four neighbors (q = lane % 4) holds columns 2q and 2q + 1 of each column tile of a
// row. Where c is just alpha·acc in the dtype of the operands, as it is for most products, the four
// lanes exchange the pairs of four column tiles, after which each lane stores 16 bytes of
// consecutive columns. Any other c goes through shared memory, from where a loop that stands once
// in the code finishes and stores it: unrolled over the accumulators it would be longer than all
// else of the kernel.
#pragma once

#include "backend/cuda/device/gemm_tile.cuh"

namespace lora::device {

template <class T>
inline constexpr DType kDTypeOf = DType::kBF16;
template <>
inline constexpr DType kDTypeOf<F16> = DType::kF16;

// Tells whether StorePlain can store a tile.
template <class T, class Tile>
LORA_DEVICE bool IsPlain(const GemmEpilogue& p, const GemmPlace& place) {
  return p.c_dtype == kDTypeOf<T> && p.c_align == 16 && place.n0 + Tile::kN <= p.n &&
         p.factor == nullptr && p.bias == nullptr && p.addend == nullptr;
}
// Stores c = alpha·acc.
template <class T, class Tile>
LORA_DEVICE void StorePlain(const GemmEpilogue& p, const GemmPlace& place,
                            const GemmAccumulators<Tile>& acc) {
  const int lane = LaneIndex();
  const int row0 = place.m0 + WarpIndex() / 2 * Tile::kWarpM + lane / 4;
  const int col0 = place.n0 + WarpIndex() % 2 * Tile::kWarpN + lane % 4 * 8;
  auto* c = static_cast<uint16_t*>(p.c) + PlaceInC(p, row0, col0);
  LORA_UNROLL
  for (int i = 0; i < Tile::kRowTiles; ++i) {
    LORA_UNROLL
    for (int half = 0; half < 2; ++half) {
      LORA_UNROLL
      for (int j0 = 0; j0 < Tile::kColTiles; j0 += 4) {
        uint32_t words[4];
        LORA_UNROLL
        for (int j = 0; j < 4; ++j) {
          const float(&sums)[4] = acc[i][j0 + j];
          // The sum makes +0 of −0, as that with a bias of 0 does.
          words[j] =
              RoundPair<T>(sums[half * 2] * p.alpha + 0.0f, sums[half * 2 + 1] * p.alpha + 0.0f);
        }
        TransposeQuad(words);
        if (row0 + i * 16 + half * 8 < p.m)
          StoreGlobal16(c + j0 * 8, {{words[0], words[1], words[2], words[3]}});
      }
      c += p.c_pitch * 8;
    }
  }
}

// What stands in shared memory: alpha·factor and the bias of the tile's columns, then for each warp
// the sums of one row tile.
template <class Tile>
struct EpilogueShared {
  // Four rows of pairs, and a row of runs of four, span the banks once.
  static constexpr int kPitch = Tile::kWarpN + 8;
  static_assert(kPitch % 32 == 8);
  static constexpr int kSums = 2 * Tile::kN, kWarpSums = 16 * kPitch;  // floats
  static_assert((kSums + Tile::kThreads / 32 * kWarpSums) * sizeof(float) <= Tile::kSharedBytes);
  // Of a row of the warp's, which so many consecutive lanes share.
  static constexpr int kRuns = Tile::kWarpN / 4;
};

// Calls store(row, col, sums) with four sums of each row of the warp's tile, in one rolled loop.
// All lanes call it together, with rows and columns outside of c, too. No thread reads the block's
// shared memory `stages` any more when this is called.
template <class Tile, class F>
LORA_DEVICE void ForRuns(const GemmPlace& place, const GemmAccumulators<Tile>& acc, float* stages,
                         const F& store) {
  using Shared = EpilogueShared<Tile>;
  const int lane = LaneIndex();
  float* sums = stages + Shared::kSums + WarpIndex() * Shared::kWarpSums;
  float* own = sums + lane / 4 * Shared::kPitch + lane % 4 * 2;
  constexpr int kRows = 32 / Shared::kRuns;  // at a time
  const int first = lane / Shared::kRuns, at = lane % Shared::kRuns * 4;
  const int col = place.n0 + WarpIndex() % 2 * Tile::kWarpN + at;
  const int row0 = place.m0 + WarpIndex() / 2 * Tile::kWarpM;
  LORA_ROLL
  for (int tile = 0; tile < Tile::kRowTiles; ++tile) {
    // The indices of accumulators are known at compile time, so that they stay in registers.
    LORA_UNROLL
    for (int i = 0; i < Tile::kRowTiles; ++i) {
      if (i != tile) continue;
      LORA_UNROLL
      for (int j = 0; j < Tile::kColTiles; ++j) {
        LORA_UNROLL
        for (int half = 0; half < 2; ++half)
          *reinterpret_cast<FloatPair*>(own + half * 8 * Shared::kPitch + j * 8) = {
              acc[i][j][half * 2], acc[i][j][half * 2 + 1]};
      }
    }
    SyncWarp();
    LORA_ROLL
    for (int r = first; r < 16; r += kRows) {
      const Vec16 run = LoadShared16(sums + r * Shared::kPitch + at);
      float v[4];
      LORA_UNROLL
      for (int j = 0; j < 4; ++j) v[j] = BitsToFloat(run.words[j]);
      store(row0 + tile * 16 + r, col, v);
    }
    SyncWarp();  // before the next row tile overwrites the sums
  }
}

// Stores the warp's accumulators. `stages` is the block's shared memory.
template <class T, class Tile>
LORA_DEVICE void StoreAccumulators(const GemmEpilogue& p, const GemmPlace& place,
                                   const GemmAccumulators<Tile>& acc, float* stages) {
  if (IsPlain<T, Tile>(p, place)) {
    StorePlain<T, Tile>(p, place, acc);
    return;
  }
  float *const factor = stages, *const bias = stages + Tile::kN;
  SyncThreads();  // all threads have finished with the stages that these overwrite
  for (int n = ThreadIndex(); n < Tile::kN; n += Tile::kThreads) {
    factor[n] = FactorAt(p, place.n0 + n);
    bias[n] = BiasAt(p, place.n0 + n);
  }
  SyncThreads();
  ForRuns<Tile>(place, acc, stages, [&](int64_t row, int col, float(&v)[4]) {
    if (row >= p.m || col >= p.n) return;
    // Read every time: registers for these would spill on sm_120.
    const Vec16 by = LoadShared16(factor + col - place.n0),
                add = LoadShared16(bias + col - place.n0);
    FourColumns four;
    LORA_UNROLL
    for (int j = 0; j < 4; ++j) {
      four.factor[j] = BitsToFloat(by.words[j]);
      four.bias[j] = BitsToFloat(add.words[j]);
    }
    FinishFour(p, row, col, v, four);
    StoreFour(p, row, col, v);
  });
}

}  // namespace lora::device
