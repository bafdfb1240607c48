// c[m,n] = Σ over segments of a[m,k]·b[k,n] of 16-bit elements on tensor cores, f32 accumulators.
// With kTransA, a is stored [k, m]; with kTransB, b is stored [n, k] (a frozen W in forward).
//
// A block of four warps owns kM×kN of c. Operands travel in blocks of kK = 32 through a ring of
// kStages stages of shared memory, filled by cp.async; ldmatrix feeds mma.sync m16n8k16; a warp
// keeps kM/2 × kN/2 accumulators in registers. Chunks of 16 bytes are swizzled so that ldmatrix
// needs one pass per eight rows (1.00 wavefronts). Reads a and b once per tile row and column of c,
// writes c once. A segment's last block is filled with zeros, so that segments of rank 16 cost one
// block.
//
// Rows at multiples of 16 bytes are copied in chunks of 16, at multiples of 4 in words; anything
// else goes through registers.
#pragma once

#include "backend/cuda/device/gemm_common.cuh"

namespace lora::device {

template <int M, int N, int Stages, int MinBlocks>
struct GemmTile {
  static constexpr int kM = M, kN = N, kK = 32, kStages = Stages;
  static constexpr int kThreads = 128, kMinBlocks = MinBlocks;
  static constexpr int kWarpM = M / 2, kWarpN = N / 2;
  static constexpr int kRowTiles = kWarpM / 16, kColTiles = kWarpN / 8;
  static constexpr int kBytesA = M * kK * 2, kStageBytes = (M + N) * kK * 2;
  static constexpr int kSharedBytes = Stages * kStageBytes;
  static_assert(kRowTiles >= 1 && kColTiles % 4 == 0 && Stages >= 2);
};
// 48 KiB and two blocks per multiprocessor; the smaller one fills the device when m or n is small.
using GemmTile128 = GemmTile<128, 128, 3, 2>;
using GemmTile64 = GemmTile<64, 64, 4, 4>;

// Byte offset of the 16-byte chunk `chunk` of `row` in a tile with rows of kCols elements.
template <int kCols>
LORA_HOST_DEVICE int ChunkOffset(int row, int chunk) {
  static_assert(kCols == 32 || kCols % 64 == 0);
  // Rows of 64 bytes: two of them span the banks once, so every second row takes the next pattern.
  const int swizzle = kCols == 32 ? (row >> 1) & 3 : row & 7;
  return row * kCols * 2 + ((chunk ^ swizzle) << 4);
}

// The kRows×kCols elements at (row0, col0) of a matrix of rows×cols; what lies outside of it
// becomes zero.
template <int kRows, int kCols, int kThreads>
LORA_DEVICE void LoadTile(unsigned char* tile, const uint16_t* matrix, int64_t pitch, int align,
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
  if (align == 16) {
    LORA_UNROLL
    for (int i = 0; i < kLoads; ++i) {
      const bool inside = count > 0 && row + i * kStep < rows;
      CopyAsync<16>(target + i * kStep * kCols * 2, inside ? source + i * kStep * pitch : matrix,
                    inside ? count * 2 : 0);
    }
  } else if (align == 4) {
    LORA_UNROLL
    for (int i = 0; i < kLoads; ++i) {
      const int here = row + i * kStep < rows ? count : 0;
      LORA_UNROLL
      for (int w = 0; w < 4; ++w) {
        const int left = here - 2 * w, bytes = left <= 0 ? 0 : left == 1 ? 2 : 4;
        CopyAsync<4>(target + i * kStep * kCols * 2 + w * 4,
                     bytes > 0 ? source + i * kStep * pitch + 2 * w : matrix, bytes);
      }
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

// The block at `at` of both operands.
template <class Tile, bool kTransA, bool kTransB>
LORA_DEVICE void LoadStage(const GemmArgs& p, const GemmCursor& at, const GemmPlace& place,
                           unsigned char* stage) {
  const GemmSource& s = p.segments[at.segment];
  const auto* a = static_cast<const uint16_t*>(s.a) + BlockY() * p.a_batch;
  const auto* b = static_cast<const uint16_t*>(s.b) + BlockY() * p.b_batch;
  if constexpr (kTransA) {
    LoadTile<Tile::kK, Tile::kM, Tile::kThreads>(stage, a, s.a_pitch, s.a_align, at.k0, place.m0,
                                                 s.k, p.m);
  } else {
    LoadTile<Tile::kM, Tile::kK, Tile::kThreads>(stage, a, s.a_pitch, s.a_align, place.m0, at.k0,
                                                 p.m, s.k);
  }
  if constexpr (kTransB) {
    LoadTile<Tile::kN, Tile::kK, Tile::kThreads>(stage + Tile::kBytesA, b, s.b_pitch, s.b_align,
                                                 place.n0, at.k0, p.n, s.k);
  } else {
    LoadTile<Tile::kK, Tile::kN, Tile::kThreads>(stage + Tile::kBytesA, b, s.b_pitch, s.b_align,
                                                 at.k0, place.n0, s.k, p.n);
  }
}

// Fragments of 16 steps of k, of one row tile and of all column tiles of the warp.
template <class Tile, bool kTransA>
LORA_DEVICE void LoadA(uint32_t (&a)[4], const unsigned char* tile, int step, int i) {
  const int lane = LaneIndex(), warp_m = WarpIndex() / 2 * Tile::kWarpM;
  if constexpr (kTransA) {
    LoadMatrixX4Trans(a, tile + ChunkOffset<Tile::kM>(step * 16 + lane / 16 * 8 + lane % 8,
                                                      warp_m / 8 + i * 2 + lane / 8 % 2));
  } else {
    LoadMatrixX4(a,
                 tile + ChunkOffset<Tile::kK>(warp_m + i * 16 + lane % 16, step * 2 + lane / 16));
  }
}
template <class Tile, bool kTransB>
LORA_DEVICE void LoadB(uint32_t (&b)[Tile::kColTiles][2], const unsigned char* tile, int step) {
  const int lane = LaneIndex(), warp_n = WarpIndex() % 2 * Tile::kWarpN;
  LORA_UNROLL
  for (int j = 0; j < Tile::kColTiles / 2; ++j) {
    uint32_t r[4];
    if constexpr (kTransB) {
      LoadMatrixX4(r, tile + ChunkOffset<Tile::kK>(warp_n + j * 16 + lane / 16 * 8 + lane % 8,
                                                   step * 2 + lane / 8 % 2));
    } else {
      LoadMatrixX4Trans(
          r, tile + ChunkOffset<Tile::kN>(step * 16 + lane % 16, warp_n / 8 + j * 2 + lane / 16));
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
LORA_DEVICE void MultiplyStage(GemmAccumulators<Tile>& acc, const unsigned char* stage) {
  constexpr int kSteps = Tile::kK / 16;
  uint32_t a[Tile::kRowTiles][4], b[kSteps][Tile::kColTiles][2];
  LoadB<Tile, kTransB>(b[0], stage + Tile::kBytesA, 0);
  LORA_UNROLL
  for (int i = 0; i < Tile::kRowTiles; ++i) LoadA<Tile, kTransA>(a[i], stage, 0, i);
  // The next step's fragments land while this one multiplies: those of b in registers of their own,
  // those of a where a row tile is done with. All in registers of their own spill on sm_120.
  LORA_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    if (step + 1 < kSteps) LoadB<Tile, kTransB>(b[step + 1], stage + Tile::kBytesA, step + 1);
    LORA_UNROLL
    for (int i = 0; i < Tile::kRowTiles; ++i) {
      LORA_UNROLL
      for (int j = 0; j < Tile::kColTiles; ++j) MmaM16N8K16<T>(acc[i][j], a[i], b[step][j]);
      if (step + 1 < kSteps) LoadA<Tile, kTransA>(a[i], stage, step + 1, i);
    }
  }
}

// Element t of lane q of each four becomes element q of lane t.
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

// The same of a segment whose product is dropped in places, before it is added. Each lane computes
// the random words of one of four column tiles, and the four exchange them.
template <class T, class Tile, bool kTransA, bool kTransB>
LORA_DEVICE void MultiplyDropped(GemmAccumulators<Tile>& acc, const unsigned char* stage,
                                 const DropoutMask& mask, const GemmPlace& place) {
  constexpr int kSteps = Tile::kK / 16, kQuads = Tile::kColTiles / 4;
  constexpr int kTurns = Tile::kRowTiles * 2 * kQuads;  // 8 rows × 4 column tiles each
  const int lane = LaneIndex();
  const int row0 = place.m0 + WarpIndex() / 2 * Tile::kWarpM + lane / 4;
  const int group0 = (place.n0 + WarpIndex() % 2 * Tile::kWarpN) / 8 + lane % 4;
  uint32_t keep[kTurns / 4];
  LORA_UNROLL
  for (int w = 0; w < kTurns / 4; ++w) keep[w] = 0;
  LORA_ROLL
  for (int turn = 0; turn < kTurns; ++turn) {
    const PhiloxWords random =
        MaskWords(mask, row0 + turn / kQuads * 8, group0 + turn % kQuads * 4);
    uint32_t words[4];
    LORA_UNROLL
    for (int w = 0; w < 4; ++w) words[w] = random[static_cast<size_t>(w)];
    TransposeQuad(words);
    uint32_t bits = 0;
    LORA_UNROLL
    for (int w = 0; w < 4; ++w) bits |= KeptBits(mask, words[w]) << (2 * w);
    ShiftIn<8>(keep, bits);
  }
  const float scale = mask.scale;
  uint32_t b[kSteps][Tile::kColTiles][2];
  LORA_UNROLL
  for (int step = 0; step < kSteps; ++step)
    LoadB<Tile, kTransB>(b[step], stage + Tile::kBytesA, step);
  LORA_UNROLL
  for (int i = 0; i < Tile::kRowTiles; ++i) {
    uint32_t a[kSteps][4];
    LORA_UNROLL
    for (int step = 0; step < kSteps; ++step) LoadA<Tile, kTransA>(a[step], stage, step, i);
    LORA_UNROLL
    for (int j = 0; j < Tile::kColTiles; ++j) {
      float product[4] = {0, 0, 0, 0};
      LORA_UNROLL
      for (int step = 0; step < kSteps; ++step) MmaM16N8K16<T>(product, a[step], b[step][j]);
      LORA_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int turn = (i * 2 + e / 2) * kQuads + j / 4;
        const int bit = (kTurns - 1 - turn) * 8 + j % 4 * 2 + e % 2;
        if (keep[bit / 32] >> (bit % 32) & 1) acc[i][j][e] += scale * product[e];
      }
    }
  }
}

template <class Tile>
LORA_DEVICE void StoreAccumulators(const GemmArgs& p, const GemmPlace& place,
                                   const GemmAccumulators<Tile>& acc, float* bias) {
  // Everybody is done with the stage in which the bias will lie.
  SyncThreads();
  for (int col = ThreadIndex(); col < Tile::kN; col += Tile::kThreads)
    bias[col] = BiasAt(p, place.n0 + col);
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
      const bool inside = row < p.m;
      LORA_UNROLL
      for (int j0 = 0; j0 < Tile::kColTiles; j0 += 4) {
        uint32_t words[4];
        LORA_UNROLL
        for (int j = 0; j < 4; ++j) {
          const int at = col0 + (j0 + j) * 8 + lane % 4 * 2, col = place.n0 + at;
          const FloatPair add = *reinterpret_cast<const FloatPair*>(bias + at);
          float low = acc[i][j0 + j][half * 2] * p.alpha + add.low;
          float high = acc[i][j0 + j][half * 2 + 1] * p.alpha + add.high;
          if (p.addend != nullptr && inside) {
            const float* addend = p.addend + row * p.addend_pitch + col;
            if (col < p.n) low += addend[0];
            if (col + 1 < p.n) high += addend[1];
          }
          if (!f32) {
            words[j] = PackAs(p.c_dtype, low, high);
            continue;
          }
          words[j] = 0;
          if (!inside) continue;
          float* c = static_cast<float*>(p.c) + PlaceInC(p, row, col);
          if (p.c_align >= 8 && col + 1 < p.n) {
            *reinterpret_cast<FloatPair*>(c) = {low, high};
          } else {
            if (col < p.n) c[0] = low;
            if (col + 1 < p.n) c[1] = high;
          }
        }
        if (f32) continue;
        const int first = place.n0 + col0 + j0 * 8;
        if (p.c_align == 16 && first + 32 <= p.n) {
          // 32 columns of a row: after an exchange, each of its four lanes stores 16 bytes.
          TransposeQuad(words);
          if (inside)
            StoreGlobal16(static_cast<uint16_t*>(p.c) + PlaceInC(p, row, first + lane % 4 * 8),
                          {{words[0], words[1], words[2], words[3]}});
        } else if (inside) {
          LORA_UNROLL
          for (int j = 0; j < 4; ++j) {
            const int col = first + j * 8 + lane % 4 * 2;
            uint16_t* c = static_cast<uint16_t*>(p.c) + PlaceInC(p, row, col);
            if (col < p.n) c[0] = static_cast<uint16_t>(words[j]);
            if (col + 1 < p.n) c[1] = static_cast<uint16_t>(words[j] >> 16);
          }
        }
      }
    }
  }
}

template <class T, class Tile, bool kTransA, bool kTransB>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(Tile::kThreads, Tile::kMinBlocks)
    GemmMma(const LORA_GRID_CONSTANT GemmParams<Tile> params) {
  LORA_DYNAMIC_SHARED(shared);
  const GemmArgs& p = ArgsOfBlock(params);
  const GemmPlace place = PlaceOf<Tile>(p);
  const int first = BlockZ() * p.blocks_per_split;
  const int count = p.blocks - first < p.blocks_per_split ? p.blocks - first : p.blocks_per_split;

  GemmAccumulators<Tile> acc;
  LORA_UNROLL
  for (int i = 0; i < Tile::kRowTiles; ++i) {
    LORA_UNROLL
    for (int j = 0; j < Tile::kColTiles; ++j) {
      LORA_UNROLL
      for (int e = 0; e < 4; ++e) acc[i][j][e] = 0.0f;
    }
  }

  GemmCursor load_at = SeekBlock<Tile::kK>(p, first), use_at = load_at;
  bool waited = false;
  for (int turn = 1 - Tile::kStages; turn < count; ++turn) {
    if (turn >= 0) {
      CopyAsyncWait<Tile::kStages - 2>();
      // Everybody's copies of this stage have landed, and everybody is done with the stage filled
      // next.
      SyncThreads();
    }
    const int next = turn + Tile::kStages - 1;
    if (next < count) {
      if (!waited && first + next >= p.late_block) {
        GridDependencyWait();
        waited = true;
      }
      LoadStage<Tile, kTransA, kTransB>(p, load_at, place,
                                        shared + next % Tile::kStages * Tile::kStageBytes);
      NextBlock<Tile::kK>(p, load_at);
    }
    CopyAsyncCommit();
    if (turn < 0) continue;
    const unsigned char* stage = shared + turn % Tile::kStages * Tile::kStageBytes;
    const DropoutMask& mask = p.segments[use_at.segment].mask;
    if (mask.threshold == 0) {
      MultiplyStage<T, Tile, kTransA, kTransB>(acc, stage);
    } else {
      MultiplyDropped<T, Tile, kTransA, kTransB>(acc, stage, mask, place);
    }
    NextBlock<Tile::kK>(p, use_at);
  }
  if (!waited) GridDependencyWait();
  StoreAccumulators<Tile>(p, place, acc, reinterpret_cast<float*>(shared));
}

}  // namespace lora::device
