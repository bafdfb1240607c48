// Computes the same product with f32 multiply-adds, for f32 operands (never as tf32) and for what
// tensor cores do not take: mixed dtypes, or both operands transposed.
//
// A block of 256 threads owns kM×kN of c, and a thread owns kM/16 × kN/16 of it in runs of four
// columns and four rows. Blocks of kK are loaded into registers and stored to one of two buffers of
// shared memory, so that the next block is fetched while this one is multiplied. Elements of 16
// bits are widened when they are stored. Both operands are k-major there, with a pitch that spreads
// the transposing stores over the banks.
#pragma once

#include "backend/cuda/device/any_elements.cuh"
#include "backend/cuda/device/gemm_common.cuh"

namespace lora::device {

template <int Size, int K, int MinBlocks>
struct FmaTile {
  static constexpr int kM = Size, kN = Size, kK = K;
  static constexpr int kThreads = 256, kMinBlocks = MinBlocks;
  static constexpr int kRuns = Size / 64;  // of four rows or columns of a thread, 64 apart
  static constexpr int kPitch = Size + 4;
  static constexpr int kBuffer = 2 * K * kPitch;  // floats: a, b
  static constexpr int kSharedBytes = 2 * kBuffer * 4;
  static constexpr int kTurns = kRuns * kRuns * 4;  // of four bits of a mask
  static constexpr int kMaskWords = (kTurns + 7) / 8;
  static_assert(Size * K == 4 * kThreads);
};
using FmaTile128 = FmaTile<128, 8, 2>;
using FmaTile64 = FmaTile<64, 16, 3>;

// Fetches four consecutive elements of an operand per thread. With by_k, rows of the operand lie
// along k and it is stored [k, size]; else it is stored [size, k].
template <class Tile>
LORA_DEVICE RawFour FetchRun(const AnyInput& x, int64_t batch, int64_t pitch, bool aligned,
                             bool by_k, int place, int size, int k0, int k) {
  constexpr int kPerRow = Tile::kK / 4, kPerK = Tile::kM / 4;
  const int major = by_k ? k0 + ThreadIndex() / kPerK : place + ThreadIndex() / kPerRow;
  const int minor = by_k ? place + ThreadIndex() % kPerK * 4 : k0 + ThreadIndex() % kPerRow * 4;
  int count = (by_k ? size : k) - minor;
  if (major >= (by_k ? k : size)) count = 0;
  const int64_t first = batch + major * pitch + minor;
  return LoadFour(x, first, first + count, aligned);
}

template <class Tile>
LORA_DEVICE void StoreFetched(float* tile, RawFour v, DType dtype, bool by_k) {
  constexpr int kPerRow = Tile::kK / 4, kPerK = Tile::kM / 4;
  Widen(v, dtype);
  if (by_k) {
    StoreShared16(tile + ThreadIndex() / kPerK * Tile::kPitch + ThreadIndex() % kPerK * 4,
                  {{v.words[0], v.words[1], v.words[2], v.words[3]}});
  } else {
    float* to = tile + ThreadIndex() % kPerRow * 4 * Tile::kPitch + ThreadIndex() / kPerRow;
    LORA_UNROLL
    for (int j = 0; j < 4; ++j) to[j * Tile::kPitch] = BitsToFloat(v.words[j]);
  }
}

struct FmaFetched {
  RawFour a, b;
};

template <class Tile>
LORA_DEVICE FmaFetched FetchBlock(const GemmParams<Tile>& params, const GemmProduct& p,
                                  const GemmCursor& at, const GemmPlace& place) {
  const GemmSource& s = SegmentAt(params, at);
  return {FetchRun<Tile>({s.a, s.a_dtype}, BlockY() * p.a_batch, s.a_pitch, s.a_aligned,
                         params.trans_a, place.m0, p.out.m, at.k0, s.k),
          FetchRun<Tile>({s.b, s.b_dtype}, BlockY() * p.b_batch, s.b_pitch, s.b_aligned,
                         !params.trans_b, place.n0, p.out.n, at.k0, s.k)};
}

// Loads four rows or columns of one k of a tile, for run `run` of the thread.
template <class Tile>
LORA_DEVICE void LoadRun(float* v, const float* tile, int k, int run, int thread) {
  const Vec16 raw = LoadShared16(tile + k * Tile::kPitch + run * 64 + thread * 4);
  LORA_UNROLL
  for (int j = 0; j < 4; ++j) v[j] = BitsToFloat(raw.words[j]);
}

// Tells which of the thread's elements are kept: run `run` of row i has the four bits of turn
// i·kRuns + run, as ShiftIn leaves them.
template <class Tile>
LORA_DEVICE void MaskBits(uint32_t (&keep)[Tile::kMaskWords], const DropoutMask& mask,
                          const GemmPlace& place) {
  LORA_UNROLL
  for (int w = 0; w < Tile::kMaskWords; ++w) keep[w] = 0;
  LORA_ROLL
  for (int turn = 0; turn < Tile::kTurns; ++turn) {
    const int i = turn / Tile::kRuns;
    const int row = place.m0 + i / 4 * 64 + ThreadIndex() / 16 * 4 + i % 4;
    const int col = place.n0 + turn % Tile::kRuns * 64 + ThreadIndex() % 16 * 4;
    const PhiloxWords words = MaskWords(mask, row, col / 8);
    const bool upper = col % 8 != 0;
    ShiftIn<4>(keep, KeptBits(mask, upper ? words[2] : words[0]) |
                         KeptBits(mask, upper ? words[3] : words[1]) << 2);
  }
}

template <class Tile>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(Tile::kThreads, Tile::kMinBlocks)
    GemmFma(const LORA_GRID_CONSTANT GemmParams<Tile> params) {
  LORA_DYNAMIC_SHARED(shared);
  const GemmProduct& p = ProductOfBlock(params);
  constexpr int kSide = Tile::kRuns * 4;
  float* const buffers = reinterpret_cast<float*>(shared);
  const GemmPlace place = PlaceOf<Tile>(p);
  const int thread_m = ThreadIndex() / 16, thread_n = ThreadIndex() % 16;
  const int first = BlockZ() * p.blocks_per_split;
  const int count = p.blocks - first < p.blocks_per_split ? p.blocks - first : p.blocks_per_split;

  float acc[kSide][kSide];
  LORA_UNROLL
  for (int i = 0; i < kSide; ++i) {
    LORA_UNROLL
    for (int j = 0; j < kSide; ++j) acc[i][j] = 0.0f;
  }

  GemmCursor load_at = SeekBlock(params, p, first), use_at = load_at;
  bool waited = false;
  for (int turn = -1; turn < count; ++turn) {
    FmaFetched fetched{};
    if (turn + 1 < count) {
      if (!waited && first + turn + 1 >= p.late_block) {
        GridDependencyWait();
        waited = true;
      }
      fetched = FetchBlock<Tile>(params, p, load_at, place);
      NextBlock(params, load_at);
    }
    if (turn >= 0) {
      const float* tile_a = buffers + turn % 2 * Tile::kBuffer;
      const float* tile_b = tile_a + Tile::kK * Tile::kPitch;
      const DropoutMask& mask = SegmentAt(params, use_at).mask;
      if (mask.threshold == 0) {
        LORA_UNROLL
        for (int k = 0; k < Tile::kK; ++k) {
          float a[kSide], b[kSide];
          LORA_UNROLL
          for (int run = 0; run < Tile::kRuns; ++run) {
            LoadRun<Tile>(a + run * 4, tile_a, k, run, thread_m);
            LoadRun<Tile>(b + run * 4, tile_b, k, run, thread_n);
          }
          LORA_UNROLL
          for (int i = 0; i < kSide; ++i) {
            LORA_UNROLL
            for (int j = 0; j < kSide; ++j) acc[i][j] += a[i] * b[j];
          }
        }
      } else {
        uint32_t keep[Tile::kMaskWords];
        MaskBits<Tile>(keep, mask, place);
        const float scale = mask.scale;
        LORA_ROLL
        for (int k = 0; k < Tile::kK; ++k) {
          float a[kSide], b[kSide];
          LORA_UNROLL
          for (int run = 0; run < Tile::kRuns; ++run) {
            LoadRun<Tile>(a + run * 4, tile_a, k, run, thread_m);
            LoadRun<Tile>(b + run * 4, tile_b, k, run, thread_n);
          }
          LORA_UNROLL
          for (int i = 0; i < kSide; ++i) {
            LORA_UNROLL
            for (int j = 0; j < kSide; ++j) {
              const int turn = i * Tile::kRuns + j / 4;
              const int bit = (Tile::kTurns - 1 - turn) * 4 + j % 4;
              if (keep[bit / 32] >> (bit % 32) & 1) acc[i][j] += scale * a[i] * b[j];
            }
          }
        }
      }
      NextBlock(params, use_at);
    }
    if (turn + 1 < count) {
      float* next = buffers + (turn + 1) % 2 * Tile::kBuffer;
      const GemmSource& s = SegmentAt(params, use_at);  // of the block that was fetched
      StoreFetched<Tile>(next, fetched.a, s.a_dtype, params.trans_a);
      StoreFetched<Tile>(next + Tile::kK * Tile::kPitch, fetched.b, s.b_dtype, !params.trans_b);
      // This also makes sure that all threads have finished with the other buffer, which
      // the next turn fills.
      SyncThreads();
    }
  }
  if (!waited) GridDependencyWait();
  LORA_UNROLL
  for (int run = 0; run < Tile::kRuns; ++run) {
    const int col = place.n0 + run * 64 + thread_n * 4;
    const FourColumns four = ColumnsAt(p.out, col);
    LORA_UNROLL
    for (int i = 0; i < kSide; ++i) {
      const int64_t row = place.m0 + i / 4 * 64 + thread_m * 4 + i % 4;
      if (row >= p.out.m || col >= p.out.n) continue;
      float v[4] = {acc[i][run * 4], acc[i][run * 4 + 1], acc[i][run * 4 + 2], acc[i][run * 4 + 3]};
      FinishFour(p.out, row, col, v, four);
      StoreFour(p.out, row, col, v);
    }
  }
}

}  // namespace lora::device
