// Computes the gradient of attention on the plain f32 units. A block has 256 threads as 16×16 (ty,
// tx), and tiles lie in shared memory as in attention_fma.cuh.
#pragma once

#include "backend/cuda/device/attention_backward.cuh"
#include "backend/cuda/device/attention_fma.cuh"

namespace lora::device {

// sum[i][n][w] += Σ over kK of weights[k·kPitchA + ty·kA + i] · b[k][64·n + 4·tx + w].
template <int kD, int kK, int kPitchA, int kA>
LORA_DEVICE void AddProductTransposed(float (&sum)[kA][kD / 64][4], const float* weights,
                                      const float* b) {
  const int ty = ThreadIndex() / 16, tx = ThreadIndex() % 16;
  for (int k = 0; k < kK; ++k) {
    float x[kA];
    if constexpr (kA == 4) {
      const Float4 four = LoadShared4(weights + k * kPitchA + ty * kA);
      LORA_UNROLL
      for (int i = 0; i < kA; ++i) x[i] = four.v[i];
    } else {
      LORA_UNROLL
      for (int i = 0; i < kA; ++i) x[i] = weights[k * kPitchA + ty * kA + i];
    }
    LORA_UNROLL
    for (int n = 0; n < kD / 64; ++n) {
      const Float4 y = LoadShared4(b + k * (kD + 4) + n * 64 + tx * 4);
      LORA_UNROLL
      for (int i = 0; i < kA; ++i) {
        LORA_UNROLL
        for (int v = 0; v < 4; ++v) sum[i][n][v] += x[i] * y.v[v];
      }
    }
  }
}

template <int kA, int kBlocks>
LORA_DEVICE void SetZero(float (&sum)[kA][kBlocks][4]) {
  LORA_UNROLL
  for (int i = 0; i < kA; ++i) {
    LORA_UNROLL
    for (int n = 0; n < kBlocks; ++n) {
      LORA_UNROLL
      for (int w = 0; w < 4; ++w) sum[i][n][w] = 0;
    }
  }
}

template <class T, int kD>
struct KeyGradientsFmaParams {
  static constexpr int kThreads = 256, kMinBlocks = 2;
  static constexpr int kRows = kD == 256 ? 16 : 32;
  static constexpr int kKeys = kD == 64 ? 64 : kD == 128 ? 32 : 16;
  static constexpr int kPitch = kD + 4, kScorePitch = kKeys + 4;
  static constexpr int kSharedBytes =
      4 * (2 * (kRows + kKeys) * kPitch + 2 * kRows * kScorePitch + 4 * kRows);
  AttentionGradients<T> a;
};

// Computes dk and dv. A block owns a tile of keys of one (batch, kv head) and one part of the rows.
template <class T, int kD>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(256, 2)
    KeyGradientsFma(const LORA_GRID_CONSTANT KeyGradientsFmaParams<T, kD> p) {
  using P = KeyGradientsFmaParams<T, kD>;
  constexpr int kRows = P::kRows, kKeys = P::kKeys, kA = kRows / 16, kB = kKeys / 16;
  LORA_DYNAMIC_SHARED(shared);
  float* const k = reinterpret_cast<float*>(shared);
  float* const v = k + kKeys * P::kPitch;
  float* const q = v + kKeys * P::kPitch;
  float* const g = q + kRows * P::kPitch;
  float* const weights = g + kRows * P::kPitch;
  float* const slopes = weights + kRows * P::kScorePitch;
  float* const lse = slopes + kRows * P::kScorePitch;
  float* const dots = lse + kRows;
  int* const lo = reinterpret_cast<int*>(dots + kRows);
  int* const hi = lo + kRows;

  const AttentionGradients<T>& a = p.a;
  const AttentionShape& s = a.s;
  const int tiles = (s.queries + kKeys - 1) / kKeys;
  const int split = BlockX() % a.splits, block = BlockX() / a.splits;
  // Most rows see the first keys, so these blocks start first.
  const int from = block % tiles * kKeys, pair = block / tiles;
  const int b = pair / s.kv_heads, h = pair % s.kv_heads, to = Least(from + kKeys, s.queries);
  const int ty = ThreadIndex() / 16, tx = ThreadIndex() % 16;
  const auto key_of = [&](const T* keys) {
    return [&s, keys, b, h, from, to](int r) {
      return from + r < to ? keys + s.KeyOffset(b, h, from + r) : static_cast<const T*>(nullptr);
    };
  };
  LoadRows<kD, kKeys, P::kThreads>(k, s.d, key_of(a.k));
  LoadRows<kD, kKeys, P::kThreads>(v, s.d, key_of(a.v));

  float dk[kB][kD / 64][4], dv[kB][kD / 64][4];
  SetZero(dk);
  SetZero(dv);
  RowRange rows = RowsThatSee(s, from, to);
  TakePart<kRows>(a.splits, split, rows.begin, rows.end);
  const auto seek = [&](int row) { return NextRowThatSees(s, b, row, rows.end, from, to); };
  for (int first = seek(rows.begin); first < rows.end; first = seek(first + kRows)) {
    const int count = Least(kRows, rows.end - first);
    SyncThreads();
    const TileSight sight = LookAt<kRows>(s, b, first, count, lo, hi);
    const auto row_of = [&](const T* x) {
      return [&s, x, b, h, first, count](int r) {
        return r < count ? x + s.QueryOffset(b, h, first + r) : static_cast<const T*>(nullptr);
      };
    };
    LoadRows<kD, kRows, P::kThreads>(q, s.d, row_of(a.q));
    LoadRows<kD, kRows, P::kThreads>(g, s.d, row_of(a.g));
    LoadLse<kRows>(a, b, h, first, count, lse);
    LoadDots<kRows>(a, b, h, first, count, dots);
    SyncThreads();
    float scores[kA][kB], slope[kA][kB];
    DotTile<kD>(scores, q, k, s.d);
    DotTile<kD>(slope, g, v, s.d);
    const bool all = sight.All(from, from + kKeys);
    LORA_UNROLL
    for (int i = 0; i < kA; ++i) {
      const int r = ty * kA + i;
      LORA_UNROLL
      for (int j = 0; j < kB; ++j) {
        const int key = from + tx + 16 * j;
        float x = Exp2(scores[i][j] * s.scale_log2 - lse[r]);
        if (!all && (key < lo[r] || key > hi[r])) x = 0;
        weights[r * P::kScorePitch + tx + 16 * j] = x;
        slopes[r * P::kScorePitch + tx + 16 * j] = x == 0 ? 0.0f : x * (slope[i][j] - dots[r]);
      }
    }
    SyncThreads();
    AddProductTransposed<kD, kRows, P::kScorePitch>(dv, weights, g);
    AddProductTransposed<kD, kRows, P::kScorePitch>(dk, slopes, q);
  }
  LORA_UNROLL
  for (int i = 0; i < kB; ++i) {
    const int key = from + ty * kB + i;
    if (key >= to) continue;
    const int64_t at = s.KeyOffset(b, h, key);
    if (a.parts != nullptr) {
      StoreRow(a.Part(0, split) + at, s.d, dk[i], s.scale);
      StoreRow(a.Part(1, split) + at, s.d, dv[i], 1.0f);
    } else {
      StoreRow(a.dk + at, s.d, dk[i], s.scale);
      StoreRow(a.dv + at, s.d, dv[i], 1.0f);
    }
  }
  if (a.parts != nullptr)
    FinishKeys<P::kThreads>(a, reinterpret_cast<uint32_t*>(shared), b, h, from, to - from);
}

template <class T, int kD>
struct QueryGradientsFmaParams {
  static constexpr int kThreads = 256, kMinBlocks = 2;
  static constexpr int kRows = kD == 64 ? 64 : kD == 128 ? 32 : 16;
  static constexpr int kKeys = kD == 256 ? 16 : 32;
  static constexpr int kPitch = kD + 4, kScorePitch = kKeys + 4;
  static constexpr int kSharedBytes =
      4 * (2 * (kRows + kKeys) * kPitch + kRows * kScorePitch + 4 * kRows);
  AttentionGradients<T> a;
};

// D of the rows [first, first + count) of a (batch, kv head), whose g is in shared memory: a warp
// adds a row.
template <class P, class T>
LORA_DEVICE void FindDots(const AttentionGradients<T>& a, const float* g, int b, int h, int first,
                          int count, float* dots) {
  for (int r = WarpIndex(); r < P::kRows; r += P::kThreads / 32) {
    const int d = r < count ? a.s.d : 0;
    float sum = 0;
    for (int c = LaneIndex() * 4; c < d; c += 32 * 4) {
      const Float4 x = LoadShared4(g + r * P::kPitch + c);
      float y[4];
      LoadElements(y, a.y + a.s.QueryOffset(b, h, first + r), c, d);
      LORA_UNROLL
      for (int j = 0; j < 4; ++j) sum += x.v[j] * y[j];
    }
    sum = WarpSum(sum);
    if (LaneIndex() != 0) continue;
    dots[r] = sum;
    if (r < count) a.dots[a.s.LseOffset(b, h, first + r)] = sum;
  }
}

// Computes dq and D. A block owns a tile of rows of one (batch, kv head).
template <class T, int kD>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(256, 2)
    QueryGradientsFma(const LORA_GRID_CONSTANT QueryGradientsFmaParams<T, kD> p) {
  using P = QueryGradientsFmaParams<T, kD>;
  constexpr int kRows = P::kRows, kKeys = P::kKeys, kA = kRows / 16, kB = kKeys / 16;
  LORA_DYNAMIC_SHARED(shared);
  float* const q = reinterpret_cast<float*>(shared);
  float* const g = q + kRows * P::kPitch;
  float* const k = g + kRows * P::kPitch;
  float* const v = k + kKeys * P::kPitch;
  float* const slopes = v + kKeys * P::kPitch;
  float* const lse = slopes + kRows * P::kScorePitch;
  float* const dots = lse + kRows;
  int* const lo = reinterpret_cast<int*>(dots + kRows);
  int* const hi = lo + kRows;

  const AttentionGradients<T>& a = p.a;
  const AttentionShape& s = a.s;
  const int tiles = (s.rows + kRows - 1) / kRows;
  const int first = (tiles - 1 - BlockX() % tiles) * kRows, pair = BlockX() / tiles;
  const int b = pair / s.kv_heads, h = pair % s.kv_heads, count = Least(kRows, s.rows - first);
  const int ty = ThreadIndex() / 16, tx = ThreadIndex() % 16;
  const TileSight sight = LookAt<kRows>(s, b, first, count, lo, hi);
  const auto row_of = [&](const T* x) {
    return [&s, x, b, h, first, count](int r) {
      return r < count ? x + s.QueryOffset(b, h, first + r) : static_cast<const T*>(nullptr);
    };
  };
  LoadRows<kD, kRows, P::kThreads>(q, s.d, row_of(a.q));
  LoadRows<kD, kRows, P::kThreads>(g, s.d, row_of(a.g));
  LoadLse<kRows>(a, b, h, first, count, lse);
  SyncThreads();
  FindDots<P>(a, g, b, h, first, count, dots);

  float dq[kA][kD / 64][4];
  SetZero(dq);
  for (int from = sight.begin; from < sight.end; from += kKeys) {
    const int to = Least(from + kKeys, sight.end);
    const auto key_of = [&](const T* keys) {
      return [&s, keys, b, h, from, to](int r) {
        return from + r < to ? keys + s.KeyOffset(b, h, from + r) : static_cast<const T*>(nullptr);
      };
    };
    SyncThreads();
    LoadRows<kD, kKeys, P::kThreads>(k, s.d, key_of(a.k));
    LoadRows<kD, kKeys, P::kThreads>(v, s.d, key_of(a.v));
    SyncThreads();
    float scores[kA][kB], slope[kA][kB];
    DotTile<kD>(scores, q, k, s.d);
    DotTile<kD>(slope, g, v, s.d);
    const bool all = sight.All(from, from + kKeys);
    LORA_UNROLL
    for (int i = 0; i < kA; ++i) {
      const int r = ty * kA + i;
      LORA_UNROLL
      for (int j = 0; j < kB; ++j) {
        const int key = from + tx + 16 * j;
        const float x = Exp2(scores[i][j] * s.scale_log2 - lse[r]);
        const bool seen = all || (key >= lo[r] && key <= hi[r]);
        slopes[r * P::kScorePitch + tx + 16 * j] = seen ? x * (slope[i][j] - dots[r]) : 0.0f;
      }
    }
    SyncWarp();
    AddProduct<kD, kKeys, P::kScorePitch>(dq, slopes, k);
  }
  LORA_UNROLL
  for (int i = 0; i < kA; ++i) {
    const int r = ty * kA + i;
    if (r < count) StoreRow(a.dq + s.QueryOffset(b, h, first + r), s.d, dq[i], s.scale);
  }
}

}  // namespace lora::device
