// The kernels of the gradient of attention share what is here. With p = 2^(t − lse·log₂e) and
// D = g·y of each row:
//   dv_j = Σ p_j·g
//   ds_j = p_j·(g·v_j − D)
//   dk_j = scale·Σ ds_j·q
//   dq   = scale·Σ ds_j·k_j
// A block of the first kernel owns a tile of keys and adds the rows that see it in order; a block
// of the second owns a tile of rows and adds its keys in order. So there are no atomics, and scores
// are computed twice.
#pragma once

#include "backend/cuda/device/attention.cuh"

namespace lora::device {

template <class T>
struct RowDotParams {
  static constexpr int kThreads = 128, kMinBlocks = 4;
  const T *g, *y;  // [batch, queries, heads, d]
  float* dots;     // [batch, heads, queries]
  int64_t count;   // of rows
  int queries, heads, d;
};

// dots = g·y. A warp computes one row.
template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(RowDotParams<T>::kThreads, RowDotParams<T>::kMinBlocks)
    RowDots(const LORA_GRID_CONSTANT RowDotParams<T> p) {
  constexpr int kRun = 16 / sizeof(T);
  const int64_t row = int64_t{BlockX()} * (RowDotParams<T>::kThreads / 32) + WarpIndex();
  if (row >= p.count) return;
  float sum = 0;
  for (int c = LaneIndex() * kRun; c < p.d; c += 32 * kRun) {
    float g[kRun], y[kRun];
    LoadElements(g, p.g + row * p.d, c, p.d);
    LoadElements(y, p.y + row * p.d, c, p.d);
    LORA_UNROLL
    for (int j = 0; j < kRun; ++j) sum += g[j] * y[j];
  }
  sum = WarpSum(sum);
  const int head = static_cast<int>(row % p.heads);
  const int64_t query = row / p.heads;  // of all batches
  if (LaneIndex() == 0)
    p.dots[(query / p.queries * p.heads + head) * p.queries + query % p.queries] = sum;
}

template <class T>
struct AttentionGradients {
  AttentionShape s;
  const T *q, *k, *v, *g;
  const float *lse, *dots;
  T *dq, *dk, *dv;
  // Where tiles of keys are too few for the device, their rows are split into parts. Each part
  // writes its own dk and dv, [splits, 2, elements of k], and CombineGradients adds them in order.
  // Null means one part.
  float* parts = nullptr;
  int splits = 1;
  LORA_DEVICE float* Part(int n, int split) const {
    return parts + (int64_t{split} * 2 + n) * s.batch * s.queries * s.kv_heads * s.d;
  }
};

// The rows [begin, end) that may see one of the keys [from, to).
struct RowRange {
  int begin, end;
};
LORA_DEVICE RowRange RowsThatSee(const AttentionShape& s, int from, int to) {
  const int64_t last = s.window > 0 ? int64_t{to} - 1 + s.window : s.queries;  // queries below it
  return {from * s.group, static_cast<int>(last < s.queries ? last : s.queries) * s.group};
}

// Tells whether all of the rows [first, first + count) see all keys [from, to), where that follows
// from their positions alone.
LORA_DEVICE bool AllSee(const AttentionShape& s, int first, int count, int from, int to) {
  if (s.key_begin != nullptr) return false;
  const int first_query = first / s.group, last_query = (first + count - 1) / s.group;
  return first_query >= to - 1 && (s.window == 0 || last_query - s.window + 1 <= from);
}

// Returns the first row from `first` on that sees one of the keys [from, to), or `end`. With packed
// documents most rows do not see most keys, so 128 queries are checked at a time. Every warp
// computes the result.
LORA_DEVICE int NextRowThatSees(const AttentionShape& s, int b, int first, int end, int from,
                                int to) {
  if (s.key_begin == nullptr || first >= end) return first;
  for (int query = first / s.group; query * s.group < end; query += 128) {
    int found = kNoKey;
    LORA_UNROLL
    for (int n = 3; n >= 0; --n) {
      const int position = query + n * 32 + LaneIndex();
      if (position >= s.queries) continue;
      const Interval seen = SeenByQuery(s, b, position);
      if (seen.lo < to && seen.hi >= from) found = position;
    }
    LORA_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) found = Least(found, ShuffleXor(found, mask));
    if (found != kNoKey) return Least(end, Greatest(first, found * s.group));
  }
  return end;
}

// Loads lse in units of log₂ and D of rows [first, first + kRows) into shared memory. Where there
// is no row, lse is ∞, which makes p 0.
template <int kRows, class T>
LORA_DEVICE void LoadStatistics(const AttentionGradients<T>& p, int b, int h, int first, int count,
                                float* lse, float* dots) {
  const int r = ThreadIndex();
  if (r >= kRows) return;
  const int64_t at = r < count ? p.s.LseOffset(b, h, first + r) : 0;
  lse[r] = r < count ? p.lse[at] * kLog2E : INFINITY;
  dots[r] = r < count ? p.dots[at] : 0.0f;
}

template <class T>
struct CombineGradientsParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr int kPerThread = 16 / sizeof(T);
  const float* parts;
  T *dk, *dv;
  int64_t count;  // of elements of dk
  int splits;
};

// blockIdx.y 0 combines dk, 1 combines dv.
template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(256, 4)
    CombineGradients(const LORA_GRID_CONSTANT CombineGradientsParams<T> p) {
  constexpr int kPerThread = CombineGradientsParams<T>::kPerThread;
  const int64_t first = (int64_t{BlockX()} * 256 + ThreadIndex()) * kPerThread;
  float sum[kPerThread];
  LORA_UNROLL
  for (int j = 0; j < kPerThread; ++j) sum[j] = 0;
  for (int i = 0; i < p.splits; ++i) {
    float part[kPerThread];
    LoadElements(part, p.parts + (int64_t{i} * 2 + BlockY()) * p.count, first, p.count);
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j) sum[j] += part[j];
  }
  StoreElements(BlockY() == 0 ? p.dk : p.dv, first, p.count, sum);
}

}  // namespace lora::device
