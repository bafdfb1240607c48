// Computes attention on the plain f32 units, for f32, whose products tensor cores would round.
//
//   y = softmax(scale·q·kᵀ)·v
//
// Online softmax reads the keys that a tile of rows sees in one pass. A block has 256 threads as
// 16×16 (ty, tx). Tiles of q, k and v lie in shared memory as f32, with rows padded by 4 so that 16
// threads that read 16 rows use all banks. Thread (ty, tx) has rows ty·kPer + i: their scores of
// keys tx + 16·j, and their columns 4·tx + 64·n of y. The scores of a row belong to half a warp, so
// neither softmax nor storing p to shared memory needs a barrier of the block.
#pragma once

#include "backend/cuda/device/attention_finish.cuh"

namespace lora::device {

// kD: the head dim, rounded up to 64, 128 or 256.
template <int kD>
struct FmaTile {
  static constexpr int kThreads = 256;
  static constexpr int kRows = kD == 256 ? 32 : 64, kKeys = kD == 256 ? 16 : 32;
  static constexpr int kPerRow = kRows / 16, kPerKey = kKeys / 16, kBlocks = kD / 64;
  static constexpr int kPitch = kD + 4;          // of tiles of q, k, v
  static constexpr int kScorePitch = kKeys + 4;  // of a tile of scores
};

struct Float4 {
  float v[4];
};
LORA_DEVICE Float4 LoadShared4(const float* p) {
  const Vec16 raw = LoadShared16(p);
  return {{BitsToFloat(raw.words[0]), BitsToFloat(raw.words[1]), BitsToFloat(raw.words[2]),
           BitsToFloat(raw.words[3])}};
}

// tile[r][c] = row(r)[c] as f32, and 0 from column d on. A null row(r) stands for a row of zeros.
template <int kD, int kRows, int kThreads, class RowOf>
LORA_DEVICE void LoadRows(float* tile, int d, const RowOf& row) {
  using T = std::remove_cv_t<std::remove_pointer_t<decltype(row(0))>>;
  constexpr int kRun = 16 / sizeof(T), kRuns = kD / kRun;
  LORA_UNROLL
  for (int i = 0; i < (kRows * kRuns + kThreads - 1) / kThreads; ++i) {
    const int index = i * kThreads + ThreadIndex();
    const int r = index / kRuns, c = index % kRuns * kRun;
    if (r >= kRows) break;
    const T* source = row(r);
    float values[kRun];
    LoadElements(values, source, c, source ? d : 0);
    LORA_UNROLL
    for (int n = 0; n < kRun / 4; ++n) {
      Vec16 raw;
      LORA_UNROLL
      for (int w = 0; w < 4; ++w) raw.words[w] = FloatToBits(values[n * 4 + w]);
      StoreShared16(tile + r * (kD + 4) + c + n * 4, raw);
    }
  }
}

// s[i][j] = a[ty·kA + i] · b[tx + 16·j] over d columns.
template <int kD, int kA, int kB>
LORA_DEVICE void DotTile(float (&s)[kA][kB], const float* a, const float* b, int d) {
  constexpr int kPitch = kD + 4;
  const int ty = ThreadIndex() / 16, tx = ThreadIndex() % 16;
  LORA_UNROLL
  for (int i = 0; i < kA; ++i) {
    LORA_UNROLL
    for (int j = 0; j < kB; ++j) s[i][j] = 0;
  }
  LORA_ROLL
  for (int c = 0; c < d; c += 4) {
    Float4 x[kA], y[kB];
    LORA_UNROLL
    for (int i = 0; i < kA; ++i) x[i] = LoadShared4(a + (ty * kA + i) * kPitch + c);
    LORA_UNROLL
    for (int j = 0; j < kB; ++j) y[j] = LoadShared4(b + (tx + 16 * j) * kPitch + c);
    LORA_UNROLL
    for (int i = 0; i < kA; ++i) {
      LORA_UNROLL
      for (int j = 0; j < kB; ++j) {
        LORA_UNROLL
        for (int w = 0; w < 4; ++w) s[i][j] += x[i].v[w] * y[j].v[w];
      }
    }
  }
}

// sum[i][n][w] += Σ over kK of weights[(ty·kA + i)·kPitchA + k] · b[k][64·n + 4·tx + w].
template <int kD, int kK, int kPitchA, int kA>
LORA_DEVICE void AddProduct(float (&sum)[kA][kD / 64][4], const float* weights, const float* b) {
  const int ty = ThreadIndex() / 16, tx = ThreadIndex() % 16;
  for (int k = 0; k < kK; k += 4) {
    Float4 x[kA];
    LORA_UNROLL
    for (int i = 0; i < kA; ++i) x[i] = LoadShared4(weights + (ty * kA + i) * kPitchA + k);
    LORA_UNROLL
    for (int w = 0; w < 4; ++w) {
      LORA_UNROLL
      for (int n = 0; n < kD / 64; ++n) {
        const Float4 y = LoadShared4(b + (k + w) * (kD + 4) + n * 64 + tx * 4);
        LORA_UNROLL
        for (int i = 0; i < kA; ++i) {
          LORA_UNROLL
          for (int v = 0; v < 4; ++v) sum[i][n][v] += x[i].v[w] * y.v[v];
        }
      }
    }
  }
}

// to[64·n + 4·tx + w] = values[n][w]·factor, for the first d columns.
template <int kBlocks, class T>
LORA_DEVICE void StoreRow(T* to, int d, const float (&values)[kBlocks][4], float factor) {
  const int tx = ThreadIndex() % 16;
  LORA_UNROLL
  for (int n = 0; n < kBlocks; ++n) {
    const int c = n * 64 + tx * 4;
    float scaled[4];
    LORA_UNROLL
    for (int w = 0; w < 4; ++w) scaled[w] = values[n][w] * factor;
    if constexpr (sizeof(T) == 4) {
      StoreElements(to, c, d, scaled);
    } else {
      LORA_UNROLL
      for (int w = 0; w < 4; ++w)
        if (c + w < d) to[c + w] = FromFloat<T>(scaled[w]);
    }
  }
}

template <class T, int kD, class Shape = AttentionShape>
struct AttentionFmaParams {
  using Tile = FmaTile<kD>;
  static constexpr int kThreads = Tile::kThreads, kMinBlocks = 2;
  static constexpr int kRows = Tile::kRows, kKeys = Tile::kKeys;
  static constexpr int kSharedBytes =
      4 * ((kRows + 2 * kKeys) * Tile::kPitch + kRows * Tile::kScorePitch + 2 * kRows);
  Shape s;
  AttentionParts parts;
  const T *q, *k, *v;
  T* y;
  float* lse;  // or null
};

// A block owns a tile of rows of one (batch, kv head) and one part of its keys.
template <class T, int kD, class Shape = AttentionShape>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(256, 2)
    AttentionFma(const LORA_GRID_CONSTANT AttentionFmaParams<T, kD, Shape> p) {
  using Tile = FmaTile<kD>;
  constexpr int kRows = Tile::kRows, kKeys = Tile::kKeys, kA = Tile::kPerRow, kB = Tile::kPerKey;
  LORA_DYNAMIC_SHARED(shared);
  float* const q = reinterpret_cast<float*>(shared);
  float* const k = q + kRows * Tile::kPitch;
  float* const v = k + kKeys * Tile::kPitch;
  float* const weights = v + kKeys * Tile::kPitch;
  int* const lo = reinterpret_cast<int*>(weights + kRows * Tile::kScorePitch);
  int* const hi = lo + kRows;

  const Shape& s = p.s;
  const int tiles = (s.rows + kRows - 1) / kRows;
  const int split = BlockX() % p.parts.splits, block = BlockX() / p.parts.splits;
  // The last rows see most keys, so these blocks start first.
  const int first = (tiles - 1 - block % tiles) * kRows, pair = block / tiles;
  const int b = pair / s.kv_heads, h = pair % s.kv_heads, count = Least(kRows, s.rows - first);
  const int ty = ThreadIndex() / 16, tx = ThreadIndex() % 16;

  const TileSight sight = LookAt<kRows>(s, b, first, count, lo, hi);
  int begin = sight.begin, end = sight.end;
  TakePart<kKeys>(p.parts.splits, split, begin, end);
  LoadRows<kD, kRows, Tile::kThreads>(q, s.d, [&](int r) {
    return r < count ? p.q + s.QueryOffset(b, h, first + r) : static_cast<const T*>(nullptr);
  });

  float sum[kA][Tile::kBlocks][4], max[kA], weight[kA];
  LORA_UNROLL
  for (int i = 0; i < kA; ++i) {
    max[i] = -INFINITY;
    weight[i] = 0;
    LORA_UNROLL
    for (int n = 0; n < Tile::kBlocks; ++n) {
      LORA_UNROLL
      for (int w = 0; w < 4; ++w) sum[i][n][w] = 0;
    }
  }
  for (int from = begin; from < end; from += kKeys) {
    const auto key_of = [&](const T* keys) {
      return [&s, keys, b, h, from, end](int r) {
        return from + r < end ? keys + s.KeyOffset(b, h, from + r) : static_cast<const T*>(nullptr);
      };
    };
    SyncThreads();
    LoadRows<kD, kKeys, Tile::kThreads>(k, s.d, key_of(p.k));
    LoadRows<kD, kKeys, Tile::kThreads>(v, s.d, key_of(p.v));
    SyncThreads();
    float scores[kA][kB];
    DotTile<kD>(scores, q, k, s.d);
    const bool all = sight.All(from, from + kKeys);
    LORA_UNROLL
    for (int i = 0; i < kA; ++i) {
      const int r = ty * kA + i;
      float largest = -INFINITY;
      LORA_UNROLL
      for (int j = 0; j < kB; ++j) {
        const int key = from + tx + 16 * j;
        scores[i][j] *= s.scale_log2;
        if (!all && (key < lo[r] || key > hi[r])) scores[i][j] = -INFINITY;
        largest = Larger(largest, scores[i][j]);
      }
      largest = Larger(max[i], WarpReduce<16>(largest, LargerFloat()));
      const float base = largest == -INFINITY ? 0.0f : largest;
      const float factor = Exp2(max[i] - base);
      max[i] = largest;
      weight[i] *= factor;
      LORA_UNROLL
      for (int j = 0; j < kB; ++j) {
        const float x = Exp2(scores[i][j] - base);
        weight[i] += x;
        weights[r * Tile::kScorePitch + tx + 16 * j] = x;
      }
      LORA_UNROLL
      for (int n = 0; n < Tile::kBlocks; ++n) {
        LORA_UNROLL
        for (int w = 0; w < 4; ++w) sum[i][n][w] *= factor;
      }
    }
    SyncWarp();
    AddProduct<kD, kKeys, Tile::kScorePitch>(sum, weights, v);
    SyncWarp();
  }
  LORA_UNROLL
  for (int i = 0; i < kA; ++i) {
    const int r = ty * kA + i, row = first + r;
    const float total = WarpReduce<16>(weight[i], Sum());
    if (r >= count) continue;
    if (p.parts.sums != nullptr) {
      const int64_t rows = int64_t{s.batch} * s.kv_heads * s.rows;
      const int64_t at = split * rows + int64_t{pair} * s.rows + row;
      StoreRow(p.parts.sums + at * s.d, s.d, sum[i], 1.0f);
      if (tx == 0) {
        p.parts.max[at] = max[i];
        p.parts.weight[at] = total;
      }
    } else {
      const RowEnd row_end = EndOfRow(s, p.parts, h, row, max[i], total);
      StoreRow(p.y + s.QueryOffset(b, h, row), s.d, sum[i], row_end.inverse);
      if (p.lse && tx == 0) p.lse[s.LseOffset(b, h, row)] = row_end.Lse();
    }
  }
  if (p.parts.sums != nullptr) FinishRows(p, shared, pair, first, count);
}

}  // namespace lora::device
