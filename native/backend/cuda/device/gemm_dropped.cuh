// Products of a segment with dropout: elements of the product are dropped or scaled before they are
// added to the accumulators.
#pragma once

#include "backend/cuda/device/gemm_tile.cuh"

namespace lora::device {

// Which elements of a warp's accumulators are kept.
//
// Lane q of four neighbors (q = lane % 4) holds columns 2q and 2q + 1 of every column tile, but
// one Philox call gives the random numbers of all 8 columns of one column tile. So in each turn
// lane q makes the call of column tile q of four tiles side by side, and the lanes exchange the
// words. A turn gives a lane 8 bits: its two columns in each of the four tiles.
template <class Tile>
struct WarpMask {
  static constexpr int kQuads = Tile::kColTiles / 4;
  static constexpr int kTurns = Tile::kRowTiles * 2 * kQuads;  // the rows of a turn are 8

  LORA_DEVICE void Fill(const DropoutMask& mask, const GemmPlace& place) {
    const int lane = LaneIndex();
    const int row0 = place.m0 + WarpIndex() / 2 * Tile::kWarpM + lane / 4;
    const int group0 = (place.n0 + WarpIndex() % 2 * Tile::kWarpN) / 8 + lane % 4;
    LORA_UNROLL
    for (int w = 0; w < kTurns / 4; ++w) bits[w] = 0;
    LORA_ROLL
    for (int turn = 0; turn < kTurns; ++turn) {
      const PhiloxWords random =
          MaskWords(mask, row0 + turn / kQuads * 8, group0 + turn % kQuads * 4);
      uint32_t words[4];
      LORA_UNROLL
      for (int w = 0; w < 4; ++w) words[w] = random[static_cast<size_t>(w)];
      TransposeQuad(words);
      uint32_t kept = 0;
      LORA_UNROLL
      for (int w = 0; w < 4; ++w) kept |= KeptBits(mask, words[w]) << (2 * w);
      ShiftIn<8>(bits, kept);
    }
  }

  // Tells whether element e of row tile i and column tile j is kept. The indices must be known at
  // compile time, so that the words stay in registers.
  LORA_DEVICE bool Keeps(int i, int j, int e) const {
    const int turn = (i * 2 + e / 2) * kQuads + j / 4;
    const int bit = (kTurns - 1 - turn) * 8 + j % 4 * 2 + e % 2;
    return bits[bit / 32] >> (bit % 32) & 1;
  }

  uint32_t bits[kTurns / 4];
};

// Adds one block of kK to the warp's accumulators, as MultiplyStage does, with dropout. Neither
// operand is transposed.
template <class T, class Tile>
LORA_DEVICE void MultiplyDropped(GemmAccumulators<Tile>& acc, const unsigned char* stage,
                                 const FragmentPlaces<Tile, false, false>& at,
                                 const DropoutMask& mask, const GemmPlace& place) {
  constexpr int kSteps = Tile::kK / 16;
  WarpMask<Tile> keep;
  keep.Fill(mask, place);
  const float scale = mask.scale;
  uint32_t b[kSteps][Tile::kColTiles][2];
  LORA_UNROLL
  for (int step = 0; step < kSteps; ++step) LoadB<Tile, false>(b[step], stage, at.b, step);
  LORA_UNROLL
  for (int i = 0; i < Tile::kRowTiles; ++i) {
    uint32_t a[kSteps][4];
    LORA_UNROLL
    for (int step = 0; step < kSteps; ++step) LoadA<Tile, false>(a[step], stage, at.a, step, i);
    LORA_UNROLL
    for (int j = 0; j < Tile::kColTiles; ++j) {
      float product[4] = {0, 0, 0, 0};
      LORA_UNROLL
      for (int step = 0; step < kSteps; ++step) MmaM16N8K16<T>(product, a[step], b[step][j]);
      LORA_UNROLL
      for (int e = 0; e < 4; ++e)
        if (keep.Keeps(i, j, e)) acc[i][j][e] += scale * product[e];
    }
  }
}

}  // namespace lora::device
