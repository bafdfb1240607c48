// Tiles of rows of the head dim, for attention on tensor cores: copied from global to shared
// memory, loaded from there as operands of mma, and stored from accumulators.
//
// Rows of shared memory are chunks of 16 bytes, swizzled so that ldmatrix needs one pass per eight
// rows.
#pragma once

#include "backend/cuda/device/attention.cuh"

namespace lora::device {

// Returns the byte offset of chunk `chunk` (8 elements) of `row` in a tile with
// rows of kD elements.
template <int kD>
LORA_DEVICE int SwizzledChunk(int row, int chunk) {
  return row * kD * 2 + ((chunk ^ (row & 7)) << 4);
}

// Copies one chunk of a row that has `left` elements from there on, or zeros where it has none.
// `aligned` copies arrive at the thread's CopyAsyncWait; `any` is an address in global memory that
// is a multiple of 16.
template <class T>
LORA_DEVICE void CopyChunk(unsigned char* target, const T* source, int left, const T* any) {
  CopyAsync<16>(target, left > 0 ? source : any, left > 0 ? 16 : 0);
}
template <class T>
LORA_DEVICE void LoadChunk(unsigned char* target, const T* source, int left) {
  Vec16 v{{0, 0, 0, 0}};
  LORA_UNROLL
  for (int j = 0; j < 8; ++j)
    if (j < left) v.words[j / 2] |= uint32_t{source[j].bits} << (j % 2 * 16);
  StoreShared16(target, v);
}

// tile[r] = source[r·pitch …] for r < count and columns below d, else zeros. With `aligned`, rows
// start at multiples of 16 bytes and d is a multiple of 8. One pointer walks along the rows,
// because ptxas would keep a pointer for every row in a register. Most tiles have all their rows,
// and then none is compared with count.
template <int kD, int kRows, int kThreads, class T>
LORA_DEVICE void CopyRows(unsigned char* tile, const T* source, int64_t pitch, int count, int d,
                          bool aligned, const T* any, int thread = ThreadIndex()) {
  constexpr int kChunks = kD / 8, kStep = kThreads / kChunks;
  static_assert(kThreads % kChunks == 0 && kRows % kStep == 0);
  const int chunk = thread % kChunks, left = d - chunk * 8;
  if (aligned) {
    // A thread behind the last column copies nothing, from one address.
    const T* at = left > 0 ? source + thread / kChunks * pitch + chunk * 8 : any;
    const int64_t step = left > 0 ? pitch * kStep : 0;
    const int bytes = left > 0 ? 16 : 0;
    if (count >= kRows) {
      LORA_UNROLL
      for (int r = thread / kChunks, i = 0; i < kRows / kStep; ++i, r += kStep) {
        CopyAsync<16>(tile + SwizzledChunk<kD>(r, chunk), at, bytes);
        at += step;
      }
    } else {
      LORA_UNROLL
      for (int r = thread / kChunks, i = 0; i < kRows / kStep; ++i, r += kStep) {
        CopyAsync<16>(tile + SwizzledChunk<kD>(r, chunk), r < count ? at : any,
                      r < count ? bytes : 0);
        at += step;
      }
    }
  } else {
    const T* at = source + thread / kChunks * pitch + chunk * 8;
    LORA_ROLL
    for (int r = thread / kChunks; r < kRows; r += kStep) {
      LoadChunk(tile + SwizzledChunk<kD>(r, chunk), at, r < count ? left : 0);
      at += pitch * kStep;
    }
  }
}
// Does the same for rows [first, first + count) of a (batch, kv head), which are
// stored query by query.
template <int kD, int kRows, int kThreads, class T>
LORA_DEVICE void CopyQueries(unsigned char* tile, const T* x, const AttentionShape& s, int b, int h,
                             int first, int count, bool aligned) {
  constexpr int kChunks = kD / 8, kStep = kThreads / kChunks;
  static_assert(kThreads % kChunks == 0 && kRows % kStep == 0);
  const int chunk = ThreadIndex() % kChunks, left = s.d - chunk * 8;
  const auto source = [&](int r) {
    return x + (r < count ? s.QueryOffset(b, h, first + r) + chunk * 8 : 0);
  };
  if (aligned) {
    LORA_UNROLL
    for (int r = ThreadIndex() / kChunks, i = 0; i < kRows / kStep; ++i, r += kStep)
      CopyChunk(tile + SwizzledChunk<kD>(r, chunk), source(r), r < count ? left : 0, x);
  } else {
    LORA_ROLL
    for (int r = ThreadIndex() / kChunks; r < kRows; r += kStep)
      LoadChunk(tile + SwizzledChunk<kD>(r, chunk), source(r), r < count ? left : 0);
  }
}

// Returns where chunk 2·pair + chunk of row first + row lies, for 16 rows from `first` on and chunk
// 0 or 1. What depends on the lane is the same for all pairs, whose bits the swizzle only flips.
template <int kD>
LORA_DEVICE const unsigned char* ChunkOfPair(const unsigned char* tile, int first, int row,
                                             int pair, int chunk) {
  return tile + first * kD * 2 + (SwizzledChunk<kD>(row, chunk) ^ (pair * 32));
}

// Loads rows [row, row + 16) and columns [16·step, 16·step + 16) of a tile as the
// first operand of mma.
template <int kD>
LORA_DEVICE void LoadRowsOperand(uint32_t (&a)[4], const unsigned char* tile, int row, int step) {
  const int lane = LaneIndex();
  LoadMatrixX4(a, ChunkOfPair<kD>(tile, row, lane % 16, step, lane / 16));
}
// Loads the second operand of products over the columns: b[0] from rows [row, row + 8),
// b[1] from the next 8.
template <int kD>
LORA_DEVICE void LoadColumnsOperand(uint32_t (&b)[2][2], const unsigned char* tile, int row,
                                    int step) {
  const int lane = LaneIndex();
  uint32_t r[4];
  LoadMatrixX4(r, ChunkOfPair<kD>(tile, row, lane / 16 * 8 + lane % 8, step, lane / 8 % 2));
  b[0][0] = r[0];
  b[0][1] = r[1];
  b[1][0] = r[2];
  b[1][1] = r[3];
}
// Loads the second operand of products over the rows [row, row + 16): b[0] from columns [16·block,
// 16·block + 8), b[1] from the next 8.
template <int kD>
LORA_DEVICE void LoadSummedOperand(uint32_t (&b)[2][2], const unsigned char* tile, int row,
                                   int block) {
  const int lane = LaneIndex();
  uint32_t r[4];
  LoadMatrixX4Trans(r, ChunkOfPair<kD>(tile, row, lane % 16, block, lane / 16));
  b[0][0] = r[0];
  b[0][1] = r[1];
  b[1][0] = r[2];
  b[1][1] = r[3];
}

// Accumulators of 16 rows × 8·kBlocks columns: [n][0, 1] belong to row lane / 4, columns 8·n +
// 2·(lane % 4) and the next one; [n][2, 3] belong to row lane / 4 + 8.
template <int kBlocks>
LORA_DEVICE void SetZero(float (&acc)[kBlocks][4]) {
  LORA_UNROLL
  for (int n = 0; n < kBlocks; ++n) {
    LORA_UNROLL
    for (int i = 0; i < 4; ++i) acc[n][i] = 0;
  }
}

// acc += a · (rows [row, row + 8·kBlocks) of a tile)ᵀ, for one step of products of rows. What is
// loaded from the tile serves every a.
template <class T, int kD, int kTiles, int kBlocks>
LORA_DEVICE void AddDots(float (&acc)[kTiles][kBlocks][4], const uint32_t (&a)[kTiles][4],
                         const unsigned char* tile, int row, int step) {
  LORA_UNROLL
  for (int n = 0; n < kBlocks / 2; ++n) {
    uint32_t operand[2][2];
    LoadColumnsOperand<kD>(operand, tile, row + n * 16, step);
    LORA_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      MmaM16N8K16<T>(acc[t][2 * n], a[t], operand[0]);
      MmaM16N8K16<T>(acc[t][2 * n + 1], a[t], operand[1]);
    }
  }
}
// acc += a · rows [row, row + 16) of a tile, for columns from 16·block on.
template <class T, int kD, int kTiles, int kBlocks>
LORA_DEVICE void AddRows(float (&acc)[kTiles][kBlocks][4], const uint32_t (&a)[kTiles][4],
                         const unsigned char* tile, int row, int block) {
  LORA_UNROLL
  for (int n = 0; n < kBlocks / 2; ++n) {
    uint32_t operand[2][2];
    LoadSummedOperand<kD>(operand, tile, row, block + n);
    LORA_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      MmaM16N8K16<T>(acc[t][2 * n], a[t], operand[0]);
      MmaM16N8K16<T>(acc[t][2 * n + 1], a[t], operand[1]);
    }
  }
}
// The same with one a.
template <class T, int kD, int kBlocks>
LORA_DEVICE void AddDots(float (&acc)[kBlocks][4], const uint32_t (&a)[4],
                         const unsigned char* tile, int row, int step) {
  AddDots<T, kD, 1>(reinterpret_cast<float(&)[1][kBlocks][4]>(acc),
                    reinterpret_cast<const uint32_t(&)[1][4]>(a), tile, row, step);
}
template <class T, int kD, int kBlocks>
LORA_DEVICE void AddRows(float (&acc)[kBlocks][4], const uint32_t (&a)[4],
                         const unsigned char* tile, int row, int block) {
  AddRows<T, kD, 1>(reinterpret_cast<float(&)[1][kBlocks][4]>(acc),
                    reinterpret_cast<const uint32_t(&)[1][4]>(a), tile, row, block);
}

// Rounds columns [16·step, 16·step + 16) of accumulators to the first operand of the next mma.
template <class T, int kBlocks>
LORA_DEVICE void RoundOperand(uint32_t (&a)[4], const float (&acc)[kBlocks][4], int step) {
  a[0] = RoundPair<T>(acc[2 * step][0], acc[2 * step][1]);
  a[1] = RoundPair<T>(acc[2 * step][2], acc[2 * step][3]);
  a[2] = RoundPair<T>(acc[2 * step + 1][0], acc[2 * step + 1][1]);
  a[3] = RoundPair<T>(acc[2 * step + 1][2], acc[2 * step + 1][3]);
}

// Rounds the warp's accumulators, rows times low and high, into rows [row, row + 16) of a tile
// that only this warp uses, and copies them from there to to(r), in whole chunks where `aligned`.
// A null to(r) is no row.
template <int kD, class T, int kBlocks, class RowOf>
LORA_DEVICE void StoreRows(unsigned char* tile, const float (&acc)[kBlocks][4], float low,
                           float high, int row, int first_chunk, int d, bool aligned,
                           const RowOf& to) {
  const int lane = LaneIndex();
  SyncWarp();
  LORA_UNROLL
  for (int n = 0; n < kBlocks; ++n) {
    const int at = row + lane / 4;
    *reinterpret_cast<uint32_t*>(tile + SwizzledChunk<kD>(at, first_chunk + n) + lane % 4 * 4) =
        RoundPair<T>(acc[n][0] * low, acc[n][1] * low);
    *reinterpret_cast<uint32_t*>(tile + SwizzledChunk<kD>(at + 8, first_chunk + n) + lane % 4 * 4) =
        RoundPair<T>(acc[n][2] * high, acc[n][3] * high);
  }
  SyncWarp();
  constexpr int kStep = 32 / kBlocks;  // rows that a warp stores at a time
  LORA_UNROLL
  for (int i = 0; i < 16 / kStep; ++i) {
    const int r = row + i * kStep + lane / kBlocks, chunk = first_chunk + lane % kBlocks;
    const int c = chunk * 8;
    T* const target = to(r);
    if (target == nullptr || c >= d) continue;
    const Vec16 v = LoadShared16(tile + SwizzledChunk<kD>(r, chunk));
    if (aligned) {
      StoreGlobal16(target + c, v);
    } else {
      LORA_UNROLL
      for (int j = 0; j < 8; ++j)
        if (c + j < d) target[c + j] = T{static_cast<uint16_t>(v.words[j / 2] >> (j % 2 * 16))};
    }
  }
}

// Stores accumulators as f32, times one factor, to rows to(r), columns from first_column on.
template <int kBlocks, class RowOf>
LORA_DEVICE void StoreSums(const float (&acc)[kBlocks][4], float factor, int row, int first_column,
                           int d, const RowOf& to) {
  LORA_UNROLL
  for (int half = 0; half < 2; ++half) {
    float* const target = to(row + half * 8 + LaneIndex() / 4);
    if (target == nullptr) continue;
    LORA_UNROLL
    for (int n = 0; n < kBlocks; ++n) {
      const int c = first_column + n * 8 + LaneIndex() % 4 * 2;
      if (c < d) target[c] = acc[n][2 * half] * factor;
      if (c + 1 < d) target[c + 1] = acc[n][2 * half + 1] * factor;
    }
  }
}

}  // namespace lora::device
