// The kernels of the gradient of attention share what is here. With p = 2^(t − lse·log₂e) and
// D = g·y of each row:
//   dv_j = Σ p_j·g
//   ds_j = p_j·(g·v_j − D)
//   dk_j = scale·Σ ds_j·q
//   dq   = scale·Σ ds_j·k_j
// A block of the kernel of dq owns a tile of rows, whose D it computes, and adds its keys in order.
// A block of that of dk and dv, which comes behind it, owns a tile of keys and adds the rows that
// see it in order. So there are no atomics, and scores are computed twice.
#pragma once

#include "backend/cuda/device/attention.cuh"
#include "backend/cuda/device/last_block.cuh"

namespace lora::device {

template <class T>
struct AttentionGradients {
  AttentionShape s;
  const T *q, *k, *v, *g, *y;
  const float* lse;
  float* dots;  // D, [batch, heads, queries]
  T *dq, *dk, *dv;
  // Where tiles of keys are too few for the device, their rows are split into parts. Each part
  // writes its own dk and dv, [splits, 2, elements of k], and the last block of a tile adds them in
  // order (FinishKeys). Null means one part.
  float* parts = nullptr;
  uint32_t* counters = nullptr;  // of each tile of keys
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
  int first = from;
  if (s.key_end != nullptr) first = s.window > 0 && s.window <= from ? from - s.window + 1 : 0;
  return {first * s.group, static_cast<int>(last < s.queries ? last : s.queries) * s.group};
}

// Tells whether all of the rows [first, first + count) see all keys [from, to), where that follows
// from their positions alone.
LORA_DEVICE bool AllSee(const AttentionShape& s, int first, int count, int from, int to) {
  if (s.key_begin != nullptr || s.key_end != nullptr) return false;
  const int first_query = first / s.group, last_query = (first + count - 1) / s.group;
  return first_query >= to - 1 && (s.window == 0 || last_query - s.window + 1 <= from);
}

// Returns the first row from `first` on that sees one of the keys [from, to), or `end`. With packed
// documents most rows do not see most keys, so 128 queries are checked at a time. Every warp
// computes the result.
LORA_DEVICE int NextRowThatSees(const AttentionShape& s, int b, int first, int end, int from,
                                int to) {
  if ((s.key_begin == nullptr && s.key_end == nullptr) || first >= end) return first;
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

// Loads lse in units of log₂ of rows [first, first + kRows) into shared memory. Where there is no
// row, lse is ∞, which makes p 0.
template <int kRows, class T>
LORA_DEVICE void LoadLse(const AttentionGradients<T>& p, int b, int h, int first, int count,
                         float* lse) {
  const int r = ThreadIndex();
  if (r < kRows) lse[r] = r < count ? p.lse[p.s.LseOffset(b, h, first + r)] * kLog2E : INFINITY;
}
// Loads D of these rows.
template <int kRows, class T>
LORA_DEVICE void LoadDots(const AttentionGradients<T>& p, int b, int h, int first, int count,
                          float* dots) {
  const int r = ThreadIndex();
  if (r < kRows) dots[r] = r < count ? p.dots[p.s.LseOffset(b, h, first + r)] : 0.0f;
}

// Writes dk and dv of the keys [from, from + count) of a (batch, kv head), if this block is the
// last to have stored its part of them. Every thread calls this. `word` is in shared memory.
template <int kThreads, class T>
LORA_DEVICE void FinishKeys(const AttentionGradients<T>& a, uint32_t* word, int b, int h, int from,
                            int count) {
  constexpr int kColumns = 16 / sizeof(T);
  if (!IsLastBlock(a.counters + BlockX() / a.splits, a.splits, word)) return;
  const int blocks = (a.s.d + kColumns - 1) / kColumns;
  LORA_ROLL
  for (int i = ThreadIndex(); i < 2 * count * blocks; i += kThreads) {
    const int n = i / (count * blocks);  // 0: dk, 1: dv
    const int key = from + i / blocks % count, c = i % blocks * kColumns;
    const int64_t at = a.s.KeyOffset(b, h, key);
    float sums[kColumns];
    LORA_UNROLL
    for (int j = 0; j < kColumns; ++j) sums[j] = 0;
    AddParts<4>(sums, a.Part(n, 0) + at, c, a.s.d, a.Part(n, 1) - a.Part(n, 0), a.splits,
                [](int) { return 1.0f; });
    StoreElements((n == 0 ? a.dk : a.dv) + at, c, a.s.d, sums);
  }
}

}  // namespace lora::device
