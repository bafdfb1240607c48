// Computes attention on tensor cores, for 16-bit operands.
//
//   y = softmax(scale·q·kᵀ)·v
//
// Online softmax reads the keys that a tile of rows sees in one pass. A block has 4 warps of 16
// rows each, or of 32. With 16 rows of a head dim of 64, the operands of k and v take sm_80 as long
// to load from shared memory as to multiply; with 32 rows each is loaded once for both halves. q
// stays in registers (in shared memory for head dims above 128); cp.async loads k and v into one
// tile each: v during q·kᵀ, the next k during softmax and p·v. Rows of shared memory are chunks of
// 16 bytes, swizzled so that ldmatrix needs one pass per eight rows. Scores leave mma as f32 in the
// layout of its first operand: they become weights in registers, are summed in f32, and are rounded
// to 16 bits for p·v only.
//
// With 128 rows of a head dim of 128 a block has 8 warps of 16 rows, because the sums of 32 do not
// fit into registers. k and v have two stages: one tile of both is on its way while the products of
// the other run, so that a tile is waited for once, at one barrier. q is copied to the second stage
// and has left it for registers before the first copy there, so 65 KiB do.
#pragma once

#include "backend/cuda/device/attention_finish.cuh"
#include "backend/cuda/device/attention_tile.cuh"

namespace lora::device {

// Sets the scores of the keys from `from` on that the rows [row, row + 16) of a warp do not see to
// `hidden`.
template <int kScores>
LORA_DEVICE void HideUnseen(float (&scores)[kScores][4], float hidden, int from, const int* lo,
                            const int* hi, int row) {
  const int lane = LaneIndex();
  LORA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int r = row + half * 8 + lane / 4;
    // Of the lane's own keys, counted from the first.
    const int row_lo = lo[r] - from - lane % 4 * 2, row_hi = hi[r] - from - lane % 4 * 2;
    LORA_UNROLL
    for (int n = 0; n < kScores; ++n) {
      LORA_UNROLL
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        const int key = n * 8 + i % 2;
        if (key < row_lo || key > row_hi) scores[n][i] = hidden;
      }
    }
  }
}

// Returns from the first to the last key that one of the rows [row, row + 16) sees; lo > hi where
// none sees any.
LORA_DEVICE Interval SeenByWarp(const int* lo, const int* hi, int row) {
  const int r = row + LaneIndex() % 16;
  Interval seen{lo[r], hi[r]};
  LORA_UNROLL
  for (int mask = 8; mask > 0; mask /= 2) {
    seen.lo = Least(seen.lo, ShuffleXor(seen.lo, mask));
    seen.hi = Greatest(seen.hi, ShuffleXor(seen.hi, mask));
  }
  return seen;
}

// One step of online softmax for the rows [row, row + 16) of a warp. Scores of the keys from `from`
// on become weights, and the sums so far are rescaled to the new maxima. `half` 0 and 1 of max and
// weight are rows lane / 4 and lane / 4 + 8; a lane's weight is that of its columns. Where `all`
// tells that every row sees every key, which is so in most tiles, none is compared with lo and hi.
template <int kScores, int kColumns>
LORA_DEVICE void SoftmaxStep(float (&scores)[kScores][4], float (&sum)[kColumns][4],
                             float (&max)[2], float (&weight)[2], float scale, int from, bool all,
                             const int* lo, const int* hi, int row) {
  LORA_UNROLL
  for (int n = 0; n < kScores; ++n) {
    LORA_UNROLL
    for (int i = 0; i < 4; ++i) scores[n][i] = MulRounded(scores[n][i], scale);
  }
  if (!all) HideUnseen(scores, -INFINITY, from, lo, hi, row);
  LORA_UNROLL
  for (int half = 0; half < 2; ++half) {
    float largest = -INFINITY;
    LORA_UNROLL
    for (int n = 0; n < kScores; ++n) {
      LORA_UNROLL
      for (int i = 2 * half; i < 2 * half + 2; ++i) largest = Larger(largest, scores[n][i]);
    }
    largest = Larger(max[half], WarpReduce<4>(largest, LargerFloat()));
    const float base = largest == -INFINITY ? 0.0f : largest;
    const float factor = Exp2(max[half] - base);
    max[half] = largest;
    weight[half] *= factor;
    LORA_UNROLL
    for (int n = 0; n < kScores; ++n) {
      LORA_UNROLL
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        scores[n][i] = Exp2(scores[n][i] - base);
        weight[half] += scores[n][i];
      }
    }
    LORA_UNROLL
    for (int n = 0; n < kColumns; ++n) {
      sum[n][2 * half] *= factor;
      sum[n][2 * half + 1] *= factor;
    }
  }
}

// kTileRows is 64 or 128.
template <class T, int kD, int kTileRows, class Shape = AttentionShape>
struct AttentionMmaParams {
  static constexpr int kStages = kD == 128 && kTileRows == 128 ? 2 : 1;  // of k and v
  static constexpr int kThreads = kStages * 128;
  static constexpr int kMinBlocks = kStages == 2 ? 1 : kD == 64 && kTileRows == 64 ? 3 : 2;
  static constexpr int kRows = kTileRows, kKeys = kD == 256 ? 32 : 64;
  static constexpr int kRowTiles = kRows * 2 / kThreads;  // of 16 rows, of a warp
  static constexpr bool kMaySplit = kRows == 64;          // ForwardTile
  static constexpr int kStageBytes = 2 * kKeys * kD * 2;  // k, then v
  static constexpr int kQueryBytes = kRows * kD * 2;      // of q, which is in the second stage
  static constexpr int kSharedBytes =
      kStageBytes + (kStages == 2 ? kStageBytes : kQueryBytes) + 2 * kRows * 4;
  static_assert(kStages == 1 || kQueryBytes <= kStageBytes);
  Shape s;
  AttentionParts parts;
  const T *q, *k, *v;
  T* y;
  float* lse;    // or null
  bool aligned;  // q, k, v and y at multiples of 16 bytes, d one of 8
};

// A block owns a tile of rows of one (batch, kv head) and one part of its keys.
template <class T, int kD, int kTileRows, class Shape = AttentionShape>
LORA_KERNEL void LORA_LAUNCH_BOUNDS((AttentionMmaParams<T, kD, kTileRows, Shape>::kThreads),
                                    (AttentionMmaParams<T, kD, kTileRows, Shape>::kMinBlocks))
    AttentionMma(const LORA_GRID_CONSTANT AttentionMmaParams<T, kD, kTileRows, Shape> p) {
  using P = AttentionMmaParams<T, kD, kTileRows, Shape>;
  constexpr int kRows = P::kRows, kKeys = P::kKeys, kThreads = P::kThreads,
                kRowTiles = P::kRowTiles;
  constexpr int kSteps = kD / 16;                        // of products over the head dim
  constexpr bool kKeepQ = kD <= 128;                     // in registers
  constexpr int kScores = kKeys / 8, kColumns = kD / 8;  // blocks of accumulators
  LORA_DYNAMIC_SHARED(shared);
  constexpr bool kTwoStages = P::kStages == 2;
  // With two stages q is where the second one will be.
  unsigned char* const q = kTwoStages ? shared + P::kStageBytes : shared;
  unsigned char* k = kTwoStages ? shared : q + P::kQueryBytes;
  unsigned char* v = k + P::kStageBytes / 2;
  int* const lo = reinterpret_cast<int*>(shared + P::kSharedBytes) - 2 * kRows;
  int* const hi = lo + kRows;

  const Shape& s = p.s;
  const int tiles = (s.rows + kRows - 1) / kRows;
  const int split = BlockX() % p.parts.splits, block = BlockX() / p.parts.splits;
  // The last rows see most keys, so these blocks start first.
  const int first = (tiles - 1 - block % tiles) * kRows, pair = block / tiles;
  const int b = pair / s.kv_heads, h = pair % s.kv_heads, count = Least(kRows, s.rows - first);
  const int lane = LaneIndex(), warp_row = WarpIndex() * 16 * kRowTiles;
  const bool busy = warp_row < count;

  const TileSight sight = LookAt<kRows>(s, b, first, count, lo, hi);
  int begin = sight.begin, end = sight.end;
  TakePart<kKeys>(p.parts.splits, split, begin, end);
  const auto keys = s.TilesOf(b, h);
  const auto copy_keys = [&](unsigned char* tile, const T* source, int from) {
    CopyRows<kD, kKeys, kThreads>(tile, source + keys.Offset(from), keys.pitch, end - from, s.d,
                                  p.aligned, source);
  };
  const auto copy_stage = [&](unsigned char* stage, int from) {
    copy_keys(stage, p.k, from);
    copy_keys(stage + P::kStageBytes / 2, p.v, from);
  };
  CopyQueries<kD, kRows, kThreads>(q, p.q, s, b, h, first, count, p.aligned);
  if constexpr (kTwoStages) {
    CopyAsyncCommit();
    if (begin < end) copy_stage(k, begin);
    CopyAsyncCommit();
    CopyAsyncWait<1>();
  } else {
    if (begin < end) copy_keys(k, p.k, begin);
    CopyAsyncCommit();
    CopyAsyncWait<0>();
  }
  SyncThreads();

  uint32_t q_operand[kKeepQ ? kSteps : 1][kRowTiles][4];
  const auto load_q = [&](uint32_t(&operand)[kRowTiles][4], int step) {
    LORA_UNROLL
    for (int t = 0; t < kRowTiles; ++t) LoadRowsOperand<kD>(operand[t], q, warp_row + t * 16, step);
  };
  if constexpr (kKeepQ) {
    LORA_UNROLL
    for (int step = 0; step < kSteps; ++step) load_q(q_operand[step], step);
  }
  // With two stages a warp passes over the tiles of which its rows see no key: all their weights
  // are 0.
  const Interval own = kTwoStages ? SeenByWarp(lo, hi, warp_row) : Interval{};
  // The two rows of this lane in a tile are `half` 0 and 1.
  float max[kRowTiles][2], weight[kRowTiles][2], sum[kRowTiles][kColumns][4];
  LORA_UNROLL
  for (int t = 0; t < kRowTiles; ++t) {
    LORA_UNROLL
    for (int half = 0; half < 2; ++half) {
      max[t][half] = -INFINITY;
      weight[t][half] = 0;
    }
    SetZero(sum[t]);
  }

  unsigned char* next = q;  // the other stage, if there are two
  float scores[kRowTiles][kScores][4];
  const auto add_dots = [&] {
    LORA_UNROLL
    for (int t = 0; t < kRowTiles; ++t) SetZero(scores[t]);
    if constexpr (kKeepQ) {
      LORA_UNROLL
      for (int step = 0; step < kSteps; ++step) AddDots<T, kD>(scores, q_operand[step], k, 0, step);
    } else {
      LORA_ROLL
      for (int step = 0; step < kSteps; ++step) {
        load_q(q_operand[0], step);
        AddDots<T, kD>(scores, q_operand[0], k, 0, step);
      }
    }
  };
  const auto add_values = [&](int from) {
    const bool all = sight.All(from, from + kKeys);
    LORA_UNROLL
    for (int t = 0; t < kRowTiles; ++t) {
      SoftmaxStep(scores[t], sum[t], max[t], weight[t], s.scale_log2, from, all, lo, hi,
                  warp_row + t * 16);
    }
    LORA_UNROLL
    for (int step = 0; step < kKeys / 16; ++step) {
      uint32_t weights[kRowTiles][4];
      LORA_UNROLL
      for (int t = 0; t < kRowTiles; ++t) RoundOperand<T>(weights[t], scores[t], step);
      AddRows<T, kD>(sum, weights, v, step * 16, 0);
    }
  };
  for (int from = begin; from < end; from += kKeys) {
    if constexpr (kTwoStages) {
      CopyAsyncWait<0>();
      SyncThreads();
      // k and v have arrived, and all threads have finished with the other stage.
      if (from + kKeys < end) copy_stage(next, from + kKeys);
      CopyAsyncCommit();
      if (own.lo < from + kKeys && own.hi >= from) {
        add_dots();
        add_values(from);
      }
      unsigned char* const done = k;
      k = next;
      v = k + P::kStageBytes / 2;
      next = done;
    } else {
      // k has arrived, and all threads have finished with the last v.
      copy_keys(v, p.v, from);
      CopyAsyncCommit();
      if (busy) add_dots();
      CopyAsyncWait<0>();
      SyncThreads();
      // v has arrived, and all threads have finished with k.
      if (from + kKeys < end) copy_keys(k, p.k, from + kKeys);
      CopyAsyncCommit();
      if (busy) add_values(from);
      CopyAsyncWait<0>();
      SyncThreads();
    }
  }

  LORA_UNROLL
  for (int t = 0; t < kRowTiles; ++t) {
    LORA_UNROLL
    for (int half = 0; half < 2; ++half) weight[t][half] = WarpReduce<4>(weight[t][half], Sum());
  }
  const auto row_of = [&](int t, int half) { return warp_row + t * 16 + half * 8 + lane / 4; };
  if constexpr (P::kMaySplit) {
    if (p.parts.sums != nullptr) {
      const int64_t rows = int64_t{s.batch} * s.kv_heads * s.rows;
      const int64_t at = split * rows + int64_t{pair} * s.rows + first;
      StoreSums(sum[0], 1.0f, warp_row, 0, s.d, [&](int r) {
        return r < count ? p.parts.sums + (at + r) * s.d : static_cast<float*>(nullptr);
      });
      LORA_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int r = row_of(0, half);
        if (lane % 4 != 0 || r >= count) continue;
        p.parts.max[at + r] = max[0][half];
        p.parts.weight[at + r] = weight[0][half];
      }
      return FinishRows(p, shared, pair, first, count);
    }
  }
  if (!busy) return;
  // Rows leave through memory that no other warp reads: that of q, or the stage that is next.
  unsigned char* const rows = kTwoStages ? k : q;
  LORA_UNROLL
  for (int t = 0; t < kRowTiles; ++t) {
    float inverse[2];
    LORA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int r = row_of(t, half);
      const RowEnd row_end = EndOfRow(s, p.parts, h, first + r, max[t][half], weight[t][half]);
      inverse[half] = row_end.inverse;
      if (p.lse && lane % 4 == 0 && r < count) p.lse[s.LseOffset(b, h, first + r)] = row_end.Lse();
    }
    StoreRows<kD, T>(
        rows, sum[t], inverse[0], inverse[1], warp_row + t * 16, 0, s.d, p.aligned, [&](int r) {
          return r < count ? p.y + s.QueryOffset(b, h, first + r) : static_cast<T*>(nullptr);
        });
  }
}

}  // namespace lora::device
