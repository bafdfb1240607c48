// What the kernels of the gradient of attention have in common. With p = 2^(t − lse·log₂e) and
// D = g·y of each row, without atomics:
//   dv_j = Σ p_j·g,  ds_j = p_j·(g·v_j − D),  dk_j = scale·Σ ds_j·q,  dq = scale·Σ ds_j·k_j
// A block of the first kernel owns a tile of keys and adds the rows that see it in their order; a
// block of the second owns a tile of rows and adds its keys in theirs. Scores are computed twice.
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

// dots = g·y, a warp per row.
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
  AttentionShape s;  // q_offset is 0 and capacity the number of queries
  const T *q, *k, *v, *g;
  const float *lse, *dots;
  T *dq, *dk, *dv;
};

// The rows that may see one of the keys [from, to): [begin, end).
struct RowRange {
  int begin, end;
};
LORA_DEVICE RowRange RowsThatSee(const AttentionShape& s, int from, int to) {
  const int64_t last = s.window > 0 ? int64_t{to} - 1 + s.window : s.queries;  // queries below it
  return {from * s.group, static_cast<int>(last < s.queries ? last : s.queries) * s.group};
}

// lse in units of log₂ and D of rows [first, first + kRows), in shared memory. Where there is no
// row, p shall be 0.
template <int kRows, class T>
LORA_DEVICE void LoadStatistics(const AttentionGradients<T>& p, int b, int h, int first, int count,
                                float* lse, float* dots) {
  const int r = ThreadIndex();
  if (r >= kRows) return;
  const int64_t at = r < count ? p.s.LseOffset(b, h, first + r) : 0;
  lse[r] = r < count ? p.lse[at] * kLog2E : INFINITY;
  dots[r] = r < count ? p.dots[at] : 0.0f;
}

}  // namespace lora::device
