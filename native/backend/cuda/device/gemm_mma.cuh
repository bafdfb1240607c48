// y[m,n] = x[m,k] · w[n,k]ᵀ, or · w[k,n] with kWByRows: 16-bit operands, f32 accumulators, one
// rounding.
//
// A block owns kM×kN of y. x and w travel in blocks of kK = 32 through a ring of kStages stages of
// shared memory, filled by cp.async; ldmatrix feeds mma.sync m16n8k16; a warp keeps kM/2 × kN/2
// accumulators in registers. Chunks of 16 bytes are swizzled so that ldmatrix needs one pass per
// eight rows (1.00 wavefronts). Reads x and w once per tile row and column of y, writes y once.
// Tiles are visited in groups of kGroup tile rows, so that blocks that run together share w in L2.
//
// kAligned needs pointers at multiples of 16 bytes and pitches of multiples of 8 elements; any
// pitch works without.
#pragma once

#include "backend/cuda/device/launch.h"

namespace lora::device {

template <int M, int N, int Stages, int MinBlocks>
struct GemmTile {
  static constexpr int kM = M, kN = N, kK = 32, kStages = Stages;
  static constexpr int kThreads = 128, kMinBlocks = MinBlocks;
  static constexpr int kWarpM = M / 2, kWarpN = N / 2;
  static constexpr int kStageBytes = (M + N) * kK * 2;
  static constexpr int kSharedBytes = Stages * kStageBytes;
  static constexpr int kGroup = 8;
  static_assert(kWarpM % 16 == 0 && kWarpN % 16 == 0 && Stages >= 2);
};
// 48 KiB and two blocks per multiprocessor; the smaller one fills the device when m or n is small.
using GemmTile128 = GemmTile<128, 128, 3, 2>;
using GemmTile64 = GemmTile<64, 64, 4, 3>;

template <class T, class Tile>
struct GemmParams {
  static constexpr int kThreads = Tile::kThreads, kMinBlocks = Tile::kMinBlocks;
  const T* x;
  const T* w;
  T* y;
  int m, n, k;
  int64_t x_pitch, w_pitch, y_pitch;  // elements
};

// Byte offset of the 16-byte chunk `chunk` of `row` in a tile with rows of kCols elements.
template <int kCols>
LORA_HOST_DEVICE int ChunkOffset(int row, int chunk) {
  static_assert(kCols == 32 || kCols % 64 == 0);
  // Rows of 64 bytes: two of them span the banks once, so every second row takes the next pattern.
  const int swizzle = kCols == 32 ? (row >> 1) & 3 : row & 7;
  return row * kCols * 2 + ((chunk ^ swizzle) << 4);
}

// A kRows×kCols tile at (row0, col0) of a matrix of rows×cols; what lies outside of it becomes
// zero.
template <int kRows, int kCols, int kThreads, bool kAligned, class T>
LORA_DEVICE void LoadTile(unsigned char* tile, const T* matrix, int row0, int col0, int rows,
                          int cols, int64_t pitch) {
  constexpr int kChunks = kCols / 8;
  static_assert(kRows * kChunks % kThreads == 0);
  LORA_UNROLL
  for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
    const int index = ThreadIndex() + i * kThreads;
    const int r = index / kChunks, chunk = index % kChunks;
    const int row = row0 + r, col = col0 + chunk * 8;
    int count = row < rows && col < cols ? cols - col : 0;
    if (count > 8) count = 8;
    const T* source = matrix + row * pitch + col;
    unsigned char* target = tile + ChunkOffset<kCols>(r, chunk);
    if constexpr (kAligned) {
      CopyAsync<16>(target, count ? source : matrix, count * 2);
    } else {
      Vec16 v{{0, 0, 0, 0}};
      LORA_UNROLL
      for (int j = 0; j < 8; ++j)
        if (j < count) v.words[j / 2] |= uint32_t{source[j].bits} << (j % 2 * 16);
      StoreShared16(target, v);
    }
  }
}

template <class Tile>
struct GemmFragments {
  static constexpr int kRowTiles = Tile::kWarpM / 16, kColTiles = Tile::kWarpN / 8;
  float acc[kRowTiles][kColTiles][4];
};

// Adds one block of kK to the warp's accumulators.
template <class T, class Tile, bool kWByRows>
LORA_DEVICE void MultiplyStage(GemmFragments<Tile>& f, const unsigned char* tile_x,
                               const unsigned char* tile_w) {
  using F = GemmFragments<Tile>;
  const int lane = LaneIndex();
  const int warp_m = WarpIndex() / 2 * Tile::kWarpM, warp_n = WarpIndex() % 2 * Tile::kWarpN;
  LORA_UNROLL
  for (int step = 0; step < Tile::kK / 16; ++step) {
    uint32_t a[F::kRowTiles][4], b[F::kColTiles][2];
    LORA_UNROLL
    for (int i = 0; i < F::kRowTiles; ++i)
      LoadMatrixX4(
          a[i], tile_x + ChunkOffset<Tile::kK>(warp_m + i * 16 + lane % 16, step * 2 + lane / 16));
    LORA_UNROLL
    for (int j = 0; j < F::kColTiles / 2; ++j) {
      uint32_t r[4];
      if constexpr (kWByRows) {
        LoadMatrixX4Trans(r, tile_w + ChunkOffset<Tile::kN>(step * 16 + lane % 16,
                                                            warp_n / 8 + j * 2 + lane / 16));
      } else {
        LoadMatrixX4(r, tile_w + ChunkOffset<Tile::kK>(warp_n + j * 16 + lane / 16 * 8 + lane % 8,
                                                       step * 2 + lane / 8 % 2));
      }
      b[2 * j][0] = r[0];
      b[2 * j][1] = r[1];
      b[2 * j + 1][0] = r[2];
      b[2 * j + 1][1] = r[3];
    }
    LORA_UNROLL
    for (int i = 0; i < F::kRowTiles; ++i) {
      LORA_UNROLL
      for (int j = 0; j < F::kColTiles; ++j) MmaM16N8K16<T>(f.acc[i][j], a[i], b[j]);
    }
  }
}

template <class T, class Tile>
LORA_DEVICE void StoreTile(const GemmFragments<Tile>& f, const GemmParams<T, Tile>& p, int m0,
                           int n0) {
  using F = GemmFragments<Tile>;
  const int lane = LaneIndex();
  const int row0 = m0 + WarpIndex() / 2 * Tile::kWarpM + lane / 4;
  const int col0 = n0 + WarpIndex() % 2 * Tile::kWarpN + lane % 4 * 2;
  // Columns come in pairs: one store for both where rows start at multiples of 4 bytes.
  const bool pairs = p.y_pitch % 2 == 0 && reinterpret_cast<uintptr_t>(p.y) % 4 == 0;
  LORA_UNROLL
  for (int i = 0; i < F::kRowTiles; ++i) {
    LORA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = row0 + i * 16 + half * 8;
      if (row >= p.m) continue;
      T* y = p.y + row * p.y_pitch;
      LORA_UNROLL
      for (int j = 0; j < F::kColTiles; ++j) {
        const int col = col0 + j * 8;
        const T low = FromFloat<T>(f.acc[i][j][half * 2]),
                high = FromFloat<T>(f.acc[i][j][half * 2 + 1]);
        if (pairs && col + 1 < p.n) {
          *reinterpret_cast<uint32_t*>(y + col) = Pack(low, high);
        } else {
          if (col < p.n) y[col] = low;
          if (col + 1 < p.n) y[col + 1] = high;
        }
      }
    }
  }
}

template <class T, class Tile, bool kAligned, bool kWByRows>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(Tile::kThreads, Tile::kMinBlocks)
    GemmMma(const LORA_GRID_CONSTANT GemmParams<T, Tile> p) {
  LORA_DYNAMIC_SHARED(shared);
  using F = GemmFragments<Tile>;
  const int tiles_m = (p.m + Tile::kM - 1) / Tile::kM, tiles_n = (p.n + Tile::kN - 1) / Tile::kN;
  const int per_group = Tile::kGroup * tiles_n, first = BlockX() / per_group * Tile::kGroup;
  const int rows = tiles_m - first < Tile::kGroup ? tiles_m - first : Tile::kGroup;
  const int m0 = (first + BlockX() % per_group % rows) * Tile::kM;
  const int n0 = BlockX() % per_group / rows * Tile::kN;

  const auto load = [&](int block) {
    unsigned char* tile_x = shared + block % Tile::kStages * Tile::kStageBytes;
    unsigned char* tile_w = tile_x + Tile::kM * Tile::kK * 2;
    const int k0 = block * Tile::kK;
    LoadTile<Tile::kM, Tile::kK, Tile::kThreads, kAligned>(tile_x, p.x, m0, k0, p.m, p.k,
                                                           p.x_pitch);
    if constexpr (kWByRows) {
      LoadTile<Tile::kK, Tile::kN, Tile::kThreads, kAligned>(tile_w, p.w, k0, n0, p.k, p.n,
                                                             p.w_pitch);
    } else {
      LoadTile<Tile::kN, Tile::kK, Tile::kThreads, kAligned>(tile_w, p.w, n0, k0, p.n, p.k,
                                                             p.w_pitch);
    }
  };

  F f;
  LORA_UNROLL
  for (int i = 0; i < F::kRowTiles; ++i) {
    LORA_UNROLL
    for (int j = 0; j < F::kColTiles; ++j) {
      LORA_UNROLL
      for (int c = 0; c < 4; ++c) f.acc[i][j][c] = 0.0f;
    }
  }

  const int blocks = (p.k + Tile::kK - 1) / Tile::kK;
  LORA_UNROLL
  for (int s = 0; s < Tile::kStages - 1; ++s) {
    if (s < blocks) load(s);
    CopyAsyncCommit();
  }
  for (int block = 0; block < blocks; ++block) {
    CopyAsyncWait<Tile::kStages - 2>();
    // Everybody's copies of this stage have landed, and everybody is done with the stage filled
    // next.
    SyncThreads();
    if (block + Tile::kStages - 1 < blocks) load(block + Tile::kStages - 1);
    CopyAsyncCommit();
    const unsigned char* tile_x = shared + block % Tile::kStages * Tile::kStageBytes;
    MultiplyStage<T, Tile, kWByRows>(f, tile_x, tile_x + Tile::kM * Tile::kK * 2);
  }
  StoreTile(f, p, m0, n0);
}

// Launches the form that the operands' alignment allows.
template <class T, class Tile, bool kWByRows>
LaunchError LaunchGemmMma(const GemmParams<T, Tile>& p, Stream stream) {
  const auto aligned = [](const T* data, int64_t pitch) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && pitch % 8 == 0;
  };
  LaunchShape shape;
  shape.grid_x = static_cast<unsigned>((p.m + Tile::kM - 1) / Tile::kM) *
                 static_cast<unsigned>((p.n + Tile::kN - 1) / Tile::kN);
  shape.shared_bytes = Tile::kSharedBytes;
  const bool fast = aligned(p.x, p.x_pitch) && aligned(p.w, p.w_pitch);
  return fast ? Launch<GemmMma<T, Tile, true, kWByRows>>(shape, stream, p)
              : Launch<GemmMma<T, Tile, false, kWByRows>>(shape, stream, p);
}

}  // namespace lora::device
