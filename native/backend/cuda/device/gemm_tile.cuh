// Tiles of the product on tensor cores: copied from global memory to stages of shared memory,
// loaded from there as fragments, and multiplied into the accumulators of a warp.
//
// A block of four warps owns kM×kN of c. Operands are copied in blocks of kK = 32 into a ring of
// kStages stages of shared memory by cp.async; ldmatrix feeds mma.sync m16n8k16; a warp keeps kM/2
// × kN/2 accumulators in registers. Chunks of 16 bytes are swizzled so that ldmatrix needs one pass
// per eight rows (1.00 wavefronts). A segment's last block is filled with zeros, so that a segment
// of rank 16 costs one block.
//
// Rows at multiples of 16 bytes are copied in chunks of 16; any other rows are copied through
// registers.
#pragma once

#include "backend/cuda/device/gemm_common.cuh"

namespace lora::device {

template <int M, int N, int Stages, int MinBlocks>
struct GemmTile {
  static constexpr int kM = M, kN = N, kK = 32, kStages = Stages;
  static constexpr int kThreads = 128, kMinBlocks = MinBlocks;
  static constexpr int kDroppedMinBlocks = MinBlocks < 4 ? MinBlocks : 4;  // with dropout
  static constexpr int kWarpM = M / 2, kWarpN = N / 2;
  static constexpr int kRowTiles = kWarpM / 16, kColTiles = kWarpN / 8;
  static constexpr int kBytesA = M * kK * 2, kStageBytes = (M + N) * kK * 2;
  static constexpr int kSharedBytes = Stages * kStageBytes;
  static_assert(kRowTiles >= 1 && kColTiles % 4 == 0 && Stages >= 2);
};
// 48 KiB and two blocks per multiprocessor; the smaller one fills the device when m or n is small.
using GemmTile128 = GemmTile<128, 128, 3, 2>;
using GemmTile64 = GemmTile<64, 64, 4, 5>;

// Returns the byte offset of the 16-byte chunk `chunk` of `row` in a tile with rows of kCols.
template <int kCols>
LORA_HOST_DEVICE int ChunkOffset(int row, int chunk) {
  static_assert(kCols == 32 || kCols % 64 == 0);
  // Two rows of 64 bytes span the banks once, so every second row takes the next pattern.
  const int swizzle = kCols == 32 ? (row >> 1) & 3 : row & 7;
  return row * kCols * 2 + ((chunk ^ swizzle) << 4);
}

// Copies the kRows×kCols elements at (row0, col0) of a matrix of rows×cols, and
// zeros outside of it.
template <int kRows, int kCols, int kThreads>
LORA_DEVICE void LoadTile(unsigned char* tile, const uint16_t* matrix, int64_t pitch, bool aligned,
                          int row0, int col0, int rows, int cols) {
  constexpr int kChunks = kCols / 8, kStep = kThreads / kChunks, kLoads = kRows / kStep;
  static_assert(kThreads % kChunks == 0 && kRows % kStep == 0 && kStep % 8 == 0);
  const int chunk = ThreadIndex() % kChunks, row = row0 + ThreadIndex() / kChunks;
  const int col = col0 + chunk * 8;
  int count = cols - col;
  count = count < 0 ? 0 : count > 8 ? 8 : count;
  const uint16_t* source = matrix + row * pitch + col;
  // The swizzle has the same pattern every kStep rows.
  unsigned char* target = tile + ChunkOffset<kCols>(ThreadIndex() / kChunks, chunk);
  if (aligned) {
    LORA_UNROLL
    for (int i = 0; i < kLoads; ++i) {
      const bool inside = count > 0 && row + i * kStep < rows;
      CopyAsync<16>(target + i * kStep * kCols * 2, inside ? source + i * kStep * pitch : matrix,
                    inside ? count * 2 : 0);
    }
  } else {
    LORA_UNROLL
    for (int i = 0; i < kLoads; ++i) {
      const int here = row + i * kStep < rows ? count : 0;
      Vec16 v{{0, 0, 0, 0}};
      LORA_UNROLL
      for (int j = 0; j < 8; ++j)
        if (j < here) v.words[j / 2] |= uint32_t{source[i * kStep * pitch + j]} << (j % 2 * 16);
      StoreShared16(target + i * kStep * kCols * 2, v);
    }
  }
}

// Copies the block at `at` of both operands to a stage.
template <class Tile, bool kTransA, bool kTransB>
LORA_DEVICE void LoadStage(const GemmParams<Tile>& params, const GemmProduct& p,
                           const GemmCursor& at, const GemmPlace& place, unsigned char* stage) {
  const GemmSource& s = SegmentAt(params, at);
  const auto* a = static_cast<const uint16_t*>(s.a) + BlockY() * p.a_batch;
  const auto* b = static_cast<const uint16_t*>(s.b) + BlockY() * p.b_batch;
  if constexpr (kTransA) {
    LoadTile<Tile::kK, Tile::kM, Tile::kThreads>(stage, a, s.a_pitch, s.a_aligned, at.k0, place.m0,
                                                 s.k, p.out.m);
  } else {
    LoadTile<Tile::kM, Tile::kK, Tile::kThreads>(stage, a, s.a_pitch, s.a_aligned, place.m0, at.k0,
                                                 p.out.m, s.k);
  }
  if constexpr (kTransB) {
    LoadTile<Tile::kN, Tile::kK, Tile::kThreads>(stage + Tile::kBytesA, b, s.b_pitch, s.b_aligned,
                                                 place.n0, at.k0, p.out.n, s.k);
  } else {
    LoadTile<Tile::kK, Tile::kN, Tile::kThreads>(stage + Tile::kBytesA, b, s.b_pitch, s.b_aligned,
                                                 at.k0, place.n0, s.k, p.out.n);
  }
}

// Where a lane's fragments lie in a stage, in bytes. The swizzle makes what differs between
// fragments either a distance or a flip of bits.
template <class Tile, bool kTransA, bool kTransB>
struct FragmentPlaces {
  int a, b;
  LORA_DEVICE FragmentPlaces() {
    const int lane = LaneIndex();
    const int warp_m = WarpIndex() / 2 * Tile::kWarpM, warp_n = WarpIndex() % 2 * Tile::kWarpN;
    a = kTransA ? ChunkOffset<Tile::kM>(lane / 16 * 8 + lane % 8, warp_m / 8 + lane / 8 % 2)
                : ChunkOffset<Tile::kK>(warp_m + lane % 16, lane / 16);
    b = kTransB ? ChunkOffset<Tile::kK>(warp_n + lane / 16 * 8 + lane % 8, lane / 8 % 2)
                : ChunkOffset<Tile::kN>(lane % 16, warp_n / 8 + lane / 16);
    b += Tile::kBytesA;
  }
};

// Load the fragments of 16 steps of k: a of one row tile, b of all column tiles of the warp.
template <class Tile, bool kTransA>
LORA_DEVICE void LoadA(uint32_t (&a)[4], const unsigned char* stage, int place, int step, int i) {
  if constexpr (kTransA) {
    LoadMatrixX4Trans(a, stage + (place ^ (i * 32)) + step * 16 * Tile::kM * 2);
  } else {
    LoadMatrixX4(a, stage + (place ^ (step * 32)) + i * 16 * Tile::kK * 2);
  }
}
template <class Tile, bool kTransB>
LORA_DEVICE void LoadB(uint32_t (&b)[Tile::kColTiles][2], const unsigned char* stage, int place,
                       int step) {
  LORA_UNROLL
  for (int j = 0; j < Tile::kColTiles / 2; ++j) {
    uint32_t r[4];
    if constexpr (kTransB) {
      LoadMatrixX4(r, stage + (place ^ (step * 32)) + j * 16 * Tile::kK * 2);
    } else {
      LoadMatrixX4Trans(r, stage + (place ^ (j * 32)) + step * 16 * Tile::kN * 2);
    }
    b[2 * j][0] = r[0];
    b[2 * j][1] = r[1];
    b[2 * j + 1][0] = r[2];
    b[2 * j + 1][1] = r[3];
  }
}

template <class Tile>
using GemmAccumulators = float[Tile::kRowTiles][Tile::kColTiles][4];

// Adds one block of kK to the warp's accumulators.
template <class T, class Tile, bool kTransA, bool kTransB>
LORA_DEVICE void MultiplyStage(GemmAccumulators<Tile>& acc, const unsigned char* stage,
                               const FragmentPlaces<Tile, kTransA, kTransB>& at) {
  constexpr int kSteps = Tile::kK / 16;
  uint32_t a[Tile::kRowTiles][4], b[kSteps][Tile::kColTiles][2];
  LoadB<Tile, kTransB>(b[0], stage, at.b, 0);
  LORA_UNROLL
  for (int i = 0; i < Tile::kRowTiles; ++i) LoadA<Tile, kTransA>(a[i], stage, at.a, 0, i);
  // The next step's fragments are loaded while this one multiplies: those of b into registers of
  // their own, those of a into the registers of a row tile that is finished. Registers of their own
  // for all fragments would spill on sm_120.
  LORA_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    if (step + 1 < kSteps) LoadB<Tile, kTransB>(b[step + 1], stage, at.b, step + 1);
    LORA_UNROLL
    for (int i = 0; i < Tile::kRowTiles; ++i) {
      LORA_UNROLL
      for (int j = 0; j < Tile::kColTiles; ++j) MmaM16N8K16<T>(acc[i][j], a[i], b[step][j]);
      if (step + 1 < kSteps) LoadA<Tile, kTransA>(a[i], stage, at.a, step + 1, i);
    }
  }
}

// Transposes words among each four lanes: element t of lane q becomes element q of lane t.
LORA_DEVICE void TransposeQuad(uint32_t (&w)[4]) {
  const bool odd = LaneIndex() & 1, high = LaneIndex() & 2;
  LORA_UNROLL
  for (int t = 0; t < 4; t += 2) {
    const uint32_t other = ShuffleXor(odd ? w[t] : w[t + 1], 1);
    (odd ? w[t] : w[t + 1]) = other;
  }
  LORA_UNROLL
  for (int t = 0; t < 2; ++t) {
    const uint32_t other = ShuffleXor(high ? w[t] : w[t + 2], 2);
    (high ? w[t] : w[t + 2]) = other;
  }
}

}  // namespace lora::device
