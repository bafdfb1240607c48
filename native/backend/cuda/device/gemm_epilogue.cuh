// The epilogue of the product on tensor cores: c = alpha·factor ⊙ acc + bias + addend, rounded
// once.
//
// Lane q of four neighbors (q = lane % 4) holds columns 2q and 2q + 1 of each column tile of a
// row. An f32 c is stored in such pairs. For a 16-bit c the four lanes exchange the pairs of four
// column tiles, after which each lane stores 16 bytes of consecutive columns. Where c is just
// alpha·acc in the dtype of the operands, as it is for most products, nothing else is looked at.
#pragma once

#include "backend/cuda/device/gemm_tile.cuh"

namespace lora::device {

// Returns factor·acc + bias + addend for two columns of a row from `col` on. The addend is read
// only inside of c.
LORA_DEVICE FloatPair FinishPair(const GemmEpilogue& p, FloatPair acc, FloatPair factor,
                                 FloatPair bias, int64_t row, int col) {
  FloatPair v{acc.low * factor.low + bias.low, acc.high * factor.high + bias.high};
  if (p.addend != nullptr && row < p.m) {
    const float* addend = p.addend + row * p.addend_pitch + col;
    if (col < p.n) v.low += addend[0];
    if (col + 1 < p.n) v.high += addend[1];
  }
  return v;
}

// Stores two f32 columns of a row that is inside c.
LORA_DEVICE void StorePair(const GemmEpilogue& p, int64_t row, int col, FloatPair v) {
  float* c = static_cast<float*>(p.c) + PlaceInC(p, row, col);
  if (p.c_align >= 8 && col + 1 < p.n) {
    *reinterpret_cast<FloatPair*>(c) = v;
  } else {
    if (col < p.n) c[0] = v.low;
    if (col + 1 < p.n) c[1] = v.high;
  }
}

// Stores 32 columns of a row from `first` on as 16-bit elements. words[j] holds this lane's two
// columns of column tile j. All lanes must call, also those whose row is outside c.
LORA_DEVICE void StoreQuad(const GemmEpilogue& p, int64_t row, int first, uint32_t (&words)[4]) {
  const int q = LaneIndex() % 4;
  const bool inside = row < p.m;
  if (p.c_align == 16 && first + 32 <= p.n) {
    TransposeQuad(words);
    if (inside)
      StoreGlobal16(static_cast<uint16_t*>(p.c) + PlaceInC(p, row, first + q * 8),
                    {{words[0], words[1], words[2], words[3]}});
  } else if (inside) {
    LORA_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int col = first + j * 8 + q * 2;
      uint16_t* c = static_cast<uint16_t*>(p.c) + PlaceInC(p, row, col);
      if (col < p.n) c[0] = static_cast<uint16_t>(words[j]);
      if (col + 1 < p.n) c[1] = static_cast<uint16_t>(words[j] >> 16);
    }
  }
}

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

// Stores the warp's accumulators. `columns` is shared memory for 2·kN floats.
template <class T, class Tile>
LORA_DEVICE void StoreAccumulators(const GemmEpilogue& p, const GemmPlace& place,
                                   const GemmAccumulators<Tile>& acc, float* columns) {
  if (IsPlain<T, Tile>(p, place)) {
    StorePlain<T, Tile>(p, place, acc);
    return;
  }
  float *const factor = columns, *const bias = columns + Tile::kN;
  SyncThreads();  // all threads have finished with the stage that these overwrite
  for (int col = ThreadIndex(); col < Tile::kN; col += Tile::kThreads) {
    factor[col] = FactorAt(p, place.n0 + col);
    bias[col] = BiasAt(p, place.n0 + col);
  }
  SyncThreads();
  const int lane = LaneIndex();
  const int row0 = WarpIndex() / 2 * Tile::kWarpM + lane / 4;
  const int col0 = WarpIndex() % 2 * Tile::kWarpN;
  const bool f32 = p.c_dtype == DType::kF32;
  LORA_UNROLL
  for (int i = 0; i < Tile::kRowTiles; ++i) {
    LORA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int64_t row = place.m0 + row0 + i * 16 + half * 8;
      LORA_UNROLL
      for (int j0 = 0; j0 < Tile::kColTiles; j0 += 4) {
        uint32_t words[4] = {0, 0, 0, 0};
        LORA_UNROLL
        for (int j = 0; j < 4; ++j) {
          const int at = col0 + (j0 + j) * 8 + lane % 4 * 2, col = place.n0 + at;
          const FloatPair sums{acc[i][j0 + j][half * 2], acc[i][j0 + j][half * 2 + 1]};
          const FloatPair by = *reinterpret_cast<const FloatPair*>(factor + at);
          const FloatPair add = *reinterpret_cast<const FloatPair*>(bias + at);
          const FloatPair v = FinishPair(p, sums, by, add, row, col);
          if (!f32) {
            words[j] = PackAs(p.c_dtype, v.low, v.high);
          } else if (row < p.m) {
            StorePair(p, row, col, v);
          }
        }
        if (!f32) StoreQuad(p, row, place.n0 + col0 + j0 * 8, words);
      }
    }
  }
}

}  // namespace lora::device
