// Computes the gradient of attention on tensor cores, for 16-bit operands.
//
// Both kernels keep the tile that they own in shared memory and load the tiles of the other side
// with cp.async into two stages, with one barrier a tile. A warp owns 16 keys (rows). p and ds
// leave mma as f32 in the layout of its first operand, so they are rounded to 16 bits in registers
// and multiplied again without going through memory. scale is applied last, in f32.
#pragma once

#include "backend/cuda/device/attention_backward.cuh"
#include "backend/cuda/device/attention_mma.cuh"

namespace lora::device {

struct alignas(8) Float2 {
  float v[2];
};
struct alignas(8) Int2 {
  int v[2];
};

// The rows of a stage, and those where two blocks of so many have no room: in the 100 KiB of the
// smallest multiprocessors.
template <int kD>
constexpr int kStageRows = kD == 64    ? 48
                           : kD == 128 ? 32
                                       : 16;
template <int kD>
constexpr int kSmallStageRows = kD == 128 ? 16 : kStageRows<kD>;

template <class T, int kD, int kTileRows>
struct KeyGradientsMmaParams {
  // For head dims above 128 two warps share 16 keys, and each has the sums of half the columns.
  static constexpr int kHalves = kD == 256 ? 2 : 1;
  static constexpr int kThreads = 128 * kHalves, kMinBlocks = kD == 256 ? 1 : 2;
  static constexpr int kKeys = 64, kRows = kTileRows;
  static constexpr int kStatistics = 4 * kRows * 4;  // bytes of lse, dots, lo and hi
  static constexpr int kStage = 2 * kRows * kD * 2 + kStatistics;
  static constexpr int kSharedBytes = 2 * kKeys * kD * 2 + 2 * kStage;
  AttentionGradients<T> a;
  bool aligned;  // every tensor at a multiple of 16 bytes, d one of 8
};

// Sets what the rows of a tile have to do with the keys [from, from + 16) of a warp to 0 where they
// do not see the key. Both arrays are [key][row].
template <int kBlocks>
LORA_DEVICE void ClearUnseen(float (&weights)[kBlocks][4], float (&slopes)[kBlocks][4], int from,
                             const int* lo, const int* hi) {
  const int key = from + LaneIndex() / 4;
  LORA_UNROLL
  for (int n = 0; n < kBlocks; ++n) {
    const int r = n * 8 + LaneIndex() % 4 * 2;
    const Int2 row_lo = *reinterpret_cast<const Int2*>(lo + r);
    const Int2 row_hi = *reinterpret_cast<const Int2*>(hi + r);
    LORA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int own = key + i / 2 * 8;
      if (own >= row_lo.v[i % 2] && own <= row_hi.v[i % 2]) continue;
      weights[n][i] = 0;
      slopes[n][i] = 0;
    }
  }
}

// Computes dk and dv. A block owns a tile of keys of one (batch, kv head) and one part of the rows.
template <class T, int kD, int kTileRows>
LORA_KERNEL void LORA_LAUNCH_BOUNDS((KeyGradientsMmaParams<T, kD, kTileRows>::kThreads),
                                    (KeyGradientsMmaParams<T, kD, kTileRows>::kMinBlocks))
    KeyGradientsMma(const LORA_GRID_CONSTANT KeyGradientsMmaParams<T, kD, kTileRows> p) {
  using P = KeyGradientsMmaParams<T, kD, kTileRows>;
  constexpr int kRows = P::kRows, kKeys = P::kKeys, kThreads = P::kThreads;
  constexpr int kColumns = kD / P::kHalves / 8, kBlocks = kRows / 8;
  LORA_DYNAMIC_SHARED(shared);
  unsigned char* const k = shared;
  unsigned char* const v = k + kKeys * kD * 2;
  unsigned char* const stages = v + kKeys * kD * 2;

  const AttentionGradients<T>& a = p.a;
  const AttentionShape& s = a.s;
  const int tiles = (s.queries + kKeys - 1) / kKeys;
  const int split = BlockX() % a.splits, block = BlockX() / a.splits;
  // Most rows see the first keys, so these blocks start first.
  const int from = block % tiles * kKeys, pair = block / tiles;
  const int b = pair / s.kv_heads, h = pair % s.kv_heads, to = Least(from + kKeys, s.queries);
  const int lane = LaneIndex(), warp_key = WarpIndex() % 4 * 16, half = WarpIndex() / 4;
  const bool busy = warp_key < to - from;

  const int64_t keys = s.KeyOffset(b, h, from), pitch = int64_t{s.kv_heads} * s.d;
  CopyRows<kD, kKeys, kThreads>(k, a.k + keys, pitch, to - from, s.d, p.aligned, a.k);
  CopyRows<kD, kKeys, kThreads>(v, a.v + keys, pitch, to - from, s.d, p.aligned, a.v);

  float dk[kColumns][4], dv[kColumns][4];
  SetZero(dk);
  SetZero(dv);
  RowRange rows = RowsThatSee(s, from, to);
  TakePart<kRows>(a.splits, split, rows.begin, rows.end);
  const auto count_of = [&](int first) { return Least(kRows, rows.end - first); };
  const auto seek = [&](int row) { return NextRowThatSees(s, b, row, rows.end, from, to); };
  // Starts the copies of a tile to its stage, and returns whether its rows see all keys.
  const auto fetch = [&](int first, unsigned char* stage) {
    const int count = count_of(first);
    CopyQueries<kD, kRows, kThreads>(stage, a.q, s, b, h, first, count, p.aligned);
    CopyQueries<kD, kRows, kThreads>(stage + kRows * kD * 2, a.g, s, b, h, first, count, p.aligned);
    float* const lse = reinterpret_cast<float*>(stage + 2 * kRows * kD * 2);
    int* const lo = reinterpret_cast<int*>(lse + 2 * kRows);
    LoadLse<kRows>(a, b, h, first, count, lse);
    LoadDots<kRows>(a, b, h, first, count, lse + kRows);
    return AllSee(s, first, count, from, from + kKeys) ||
           LookAt<kRows>(s, b, first, count, lo, lo + kRows).All(from, from + kKeys);
  };
  int first = seek(rows.begin), turn = 0;
  bool next_all = first < rows.end ? fetch(first, stages) : false;
  CopyAsyncCommit();
  while (first < rows.end) {
    const unsigned char* const q = stages + turn * P::kStage;
    const unsigned char* const g = q + kRows * kD * 2;
    const float* const lse = reinterpret_cast<const float*>(g + kRows * kD * 2);
    const float* const dots = lse + kRows;
    const int* const lo = reinterpret_cast<const int*>(dots + kRows);
    const int* const hi = lo + kRows;
    const bool all = next_all;
    turn ^= 1;
    first = seek(first + kRows);
    CopyAsyncWait<0>();
    SyncThreads();
    // The tile has arrived, and all threads have finished with the other stage.
    if (first < rows.end) next_all = fetch(first, stages + turn * P::kStage);
    CopyAsyncCommit();
    if (!busy) continue;
    float weights[kBlocks][4], slopes[kBlocks][4];  // [key][row]
    SetZero(weights);
    SetZero(slopes);
    LORA_ROLL  // four steps at a time: with more in flight, dk and dv leave the registers
        for (int four = 0; four < kD / 16; four += 4) {
      LORA_UNROLL
      for (int step = four; step < four + 4; ++step) {
        uint32_t operand[4];
        LoadRowsOperand<kD>(operand, k, warp_key, step);
        AddDots<T, kD>(weights, operand, q, 0, step);
        LoadRowsOperand<kD>(operand, v, warp_key, step);
        AddDots<T, kD>(slopes, operand, g, 0, step);
      }
    }
    LORA_UNROLL
    for (int n = 0; n < kBlocks; ++n) {
      const int r = n * 8 + lane % 4 * 2;
      const Float2 row_lse = *reinterpret_cast<const Float2*>(lse + r);
      const Float2 row_dots = *reinterpret_cast<const Float2*>(dots + r);
      LORA_UNROLL
      for (int i = 0; i < 4; ++i) {
        weights[n][i] = Exp2(weights[n][i] * s.scale_log2 - row_lse.v[i % 2]);
        slopes[n][i] = weights[n][i] * (slopes[n][i] - row_dots.v[i % 2]);
      }
    }
    if (!all) ClearUnseen(weights, slopes, from + warp_key, lo, hi);
    LORA_UNROLL
    for (int step = 0; step < kRows / 16; ++step) {
      uint32_t operand[4];
      RoundOperand<T>(operand, weights, step);
      AddRows<T, kD>(dv, operand, g, step * 16, half * (kColumns / 2));
      RoundOperand<T>(operand, slopes, step);
      AddRows<T, kD>(dk, operand, q, step * 16, half * (kColumns / 2));
    }
  }
  CopyAsyncWait<0>();
  SyncThreads();  // all threads have finished with k and v, whose memory dk and dv reuse
  if (a.parts != nullptr) {
    const auto part = [&](int n) {
      return [&, n](int r) {
        return from + r < to ? a.Part(n, split) + keys + r * pitch : static_cast<float*>(nullptr);
      };
    };
    StoreSums(dk, s.scale, warp_key, half * kColumns * 8, s.d, part(0));
    StoreSums(dv, 1.0f, warp_key, half * kColumns * 8, s.d, part(1));
    return FinishKeys<kThreads>(a, reinterpret_cast<uint32_t*>(shared), b, h, from, to - from);
  }
  if (!busy) return;
  const auto key_of = [&](T* x) {
    return
        [&, x](int r) { return from + r < to ? x + keys + r * pitch : static_cast<T*>(nullptr); };
  };
  StoreRows<kD, T>(k, dk, s.scale, s.scale, warp_key, half * kColumns, s.d, p.aligned,
                   key_of(a.dk));
  StoreRows<kD, T>(v, dv, 1.0f, 1.0f, warp_key, half * kColumns, s.d, p.aligned, key_of(a.dv));
}

template <class T, int kD>
struct QueryGradientsMmaParams {
  static constexpr int kThreads = 128, kMinBlocks = kD == 256 ? 1 : 2;
  static constexpr int kRows = 64, kKeys = kD == 64 ? 64 : kD == 128 ? 32 : 16;
  static constexpr bool kKeepQ = kD <= 128;  // in registers; it comes through the second stage
  static constexpr int kTile = kRows * kD * 2, kStage = 2 * kKeys * kD * 2;
  static constexpr int kSharedBytes = (kKeepQ ? 1 : 2) * kTile + 2 * kStage + 4 * kRows * 4;
  static_assert(!kKeepQ || kTile <= kStage);
  AttentionGradients<T> a;
  bool aligned;
};

// Chunks of rows of a (batch, kv head): those whose copy to a tile the thread starts (CopyQueries),
// in registers.
template <int kD, int kRows, int kThreads>
struct OwnChunks {
  static constexpr int kChunks = kD / 8, kStep = kThreads / kChunks;
  Vec16 of[kRows / kStep];

  template <class T>
  LORA_DEVICE void Load(const T* x, const AttentionShape& s, int b, int h, int first, int count,
                        bool aligned) {
    const int chunk = ThreadIndex() % kChunks, left = s.d - chunk * 8;
    LORA_UNROLL
    for (int i = 0; i < kRows / kStep; ++i) {
      const int r = ThreadIndex() / kChunks + i * kStep;
      of[i] = Vec16{{0, 0, 0, 0}};
      if (r >= count || left <= 0) continue;
      const T* const from = x + s.QueryOffset(b, h, first + r) + chunk * 8;
      if (aligned) {
        of[i] = LoadGlobal16(from);
      } else {
        LORA_UNROLL
        for (int j = 0; j < 8; ++j)
          if (j < left) of[i].words[j / 2] |= uint32_t{from[j].bits} << (j % 2 * 16);
      }
    }
  }
};

// D of the rows [first, first + count) of a (batch, kv head). A thread multiplies its chunks of y
// by those of g, whose copies to shared memory it has waited for.
template <int kD, int kRows, int kThreads, class T>
LORA_DEVICE void FindDots(const AttentionGradients<T>& a, const OwnChunks<kD, kRows, kThreads>& y,
                          const unsigned char* g, int b, int h, int first, int count, float* dots) {
  using Own = OwnChunks<kD, kRows, kThreads>;
  const int chunk = ThreadIndex() % Own::kChunks;
  LORA_UNROLL
  for (int i = 0; i < kRows / Own::kStep; ++i) {
    const int r = ThreadIndex() / Own::kChunks + i * Own::kStep;
    const Vec16 x = LoadShared16(g + SwizzledChunk<kD>(r, chunk));
    float sum = 0;
    LORA_UNROLL
    for (int j = 0; j < 8; ++j) sum += FloatOf<T>(x, j) * FloatOf<T>(y.of[i], j);
    sum = WarpSum<Own::kChunks>(sum);
    if (chunk != 0) continue;
    dots[r] = sum;
    if (r < count) a.dots[a.s.LseOffset(b, h, first + r)] = sum;
  }
}

// Computes dq and D. A block owns a tile of rows of one (batch, kv head).
template <class T, int kD>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(128, (QueryGradientsMmaParams<T, kD>::kMinBlocks))
    QueryGradientsMma(const LORA_GRID_CONSTANT QueryGradientsMmaParams<T, kD> p) {
  using P = QueryGradientsMmaParams<T, kD>;
  constexpr int kRows = P::kRows, kKeys = P::kKeys, kThreads = P::kThreads;
  constexpr int kColumns = kD / 8, kBlocks = kKeys / 8, kSteps = kD / 16;
  LORA_DYNAMIC_SHARED(shared);
  unsigned char* const g = shared;
  unsigned char* const stages = g + (P::kKeepQ ? 1 : 2) * P::kTile;
  unsigned char* const q = P::kKeepQ ? stages + P::kStage : g + P::kTile;
  float* const lse = reinterpret_cast<float*>(stages + 2 * P::kStage);
  float* const dots = lse + kRows;
  int* const lo = reinterpret_cast<int*>(dots + kRows);
  int* const hi = lo + kRows;

  const AttentionGradients<T>& a = p.a;
  const AttentionShape& s = a.s;
  const int tiles = (s.rows + kRows - 1) / kRows;
  const int first = (tiles - 1 - BlockX() % tiles) * kRows, pair = BlockX() / tiles;
  const int b = pair / s.kv_heads, h = pair % s.kv_heads, count = Least(kRows, s.rows - first);
  const int lane = LaneIndex(), warp_row = WarpIndex() * 16;
  const bool busy = warp_row < count;

  OwnChunks<kD, kRows, kThreads> y;
  y.Load(a.y, s, b, h, first, count, p.aligned);
  const TileSight sight = LookAt<kRows>(s, b, first, count, lo, hi);
  CopyQueries<kD, kRows, kThreads>(q, a.q, s, b, h, first, count, p.aligned);
  CopyQueries<kD, kRows, kThreads>(g, a.g, s, b, h, first, count, p.aligned);
  LoadLse<kRows>(a, b, h, first, count, lse);
  const int64_t keys = s.KeyOffset(b, h, 0), pitch = int64_t{s.kv_heads} * s.d;
  const auto fetch = [&](int from, unsigned char* stage) {
    const int64_t at = keys + from * pitch;
    CopyRows<kD, kKeys, kThreads>(stage, a.k + at, pitch, sight.end - from, s.d, p.aligned, a.k);
    CopyRows<kD, kKeys, kThreads>(stage + kKeys * kD * 2, a.v + at, pitch, sight.end - from, s.d,
                                  p.aligned, a.v);
  };

  float dq[kColumns][4];
  SetZero(dq);
  int turn = 0;
  if (sight.begin < sight.end) fetch(sight.begin, stages);
  CopyAsyncCommit();
  CopyAsyncWait<0>();
  FindDots(a, y, g, b, h, first, count, dots);
  uint32_t q_operand[P::kKeepQ ? kSteps : 1][4];
  if constexpr (P::kKeepQ) {
    SyncThreads();
    LORA_UNROLL
    for (int step = 0; step < kSteps; ++step)
      LoadRowsOperand<kD>(q_operand[step], q, warp_row, step);
  }
  for (int from = sight.begin; from < sight.end; from += kKeys) {
    const unsigned char* const k = stages + turn * P::kStage;
    const unsigned char* const v = k + kKeys * kD * 2;
    turn ^= 1;
    CopyAsyncWait<0>();
    SyncThreads();
    // The tile has arrived, and all threads have finished with the other stage, also with q there.
    if (from + kKeys < sight.end) fetch(from + kKeys, stages + turn * P::kStage);
    CopyAsyncCommit();
    if (!busy) continue;
    float weights[kBlocks][4], slopes[kBlocks][4];  // [row][key]
    SetZero(weights);
    SetZero(slopes);
    LORA_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      uint32_t operand[4];
      if constexpr (!P::kKeepQ) LoadRowsOperand<kD>(q_operand[0], q, warp_row, step);
      AddDots<T, kD>(weights, q_operand[P::kKeepQ ? step : 0], k, 0, step);
      LoadRowsOperand<kD>(operand, g, warp_row, step);
      AddDots<T, kD>(slopes, operand, v, 0, step);
    }
    LORA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int r = warp_row + half * 8 + lane / 4;
      const float row_lse = lse[r], row_dots = dots[r];
      LORA_UNROLL
      for (int n = 0; n < kBlocks; ++n) {
        LORA_UNROLL
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          const float x = Exp2(weights[n][i] * s.scale_log2 - row_lse);
          slopes[n][i] = x * (slopes[n][i] - row_dots);
        }
      }
    }
    if (!sight.All(from, from + kKeys)) HideUnseen(slopes, 0, from, lo, hi, warp_row);
    LORA_UNROLL
    for (int step = 0; step < kKeys / 16; ++step) {
      uint32_t operand[4];
      RoundOperand<T>(operand, slopes, step);
      AddRows<T, kD>(dq, operand, k, step * 16, 0);
    }
  }
  CopyAsyncWait<0>();
  SyncThreads();  // where there were no keys, g has arrived only now
  if (!busy) return;
  StoreRows<kD, T>(g, dq, s.scale, s.scale, warp_row, 0, s.d, p.aligned, [&](int r) {
    return r < count ? a.dq + s.QueryOffset(b, h, first + r) : static_cast<T*>(nullptr);
  });
}

}  // namespace lora::device
