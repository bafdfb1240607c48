// The kernels of attention share what is here: where rows and keys lie in memory, and
// which keys a row sees.
//
// The query heads of one kv head are computed together: row r of a (batch, kv head) is head r
// % group of query r / group. So a tile of rows reads each key once for all heads of its
// group, dk and dv are summed over the group in the order of the rows, and a decode step is a
// tile of `group` rows.
//
// Scores are kept in units of log₂: t = q·k · scale·log₂e, and p = 2^(t − max).
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/reduce.cuh"

namespace lora::device {

constexpr int kNoKey = 2147483647;
constexpr float kLn2 = 0.693147180559945309f, kLog2E = 1.44269504088896341f;

struct AttentionShape {
  const int32_t *key_begin, *key_end;  // [batch, queries], or null
  int batch, queries, q_heads, kv_heads, group, d;
  int rows;                 // per (batch, kv head): queries · group
  int window;               // 0: none
  float scale, scale_log2;  // scale · log₂e

  LORA_DEVICE int64_t QueryOffset(int b, int h, int row) const {  // of q, y, g, dq
    return ((int64_t{b} * queries + row / group) * q_heads + h * group + row % group) * d;
  }
  LORA_DEVICE int64_t KeyOffset(int b, int h, int key) const {  // of k, v, dk, dv
    return ((int64_t{b} * queries + key) * kv_heads + h) * d;
  }
  LORA_DEVICE int64_t LseOffset(int b, int h, int row) const {
    return (int64_t{b} * q_heads + h * group + row % group) * queries + row / group;
  }

  LORA_DEVICE int Position(int) const { return 0; }  // of the first query
  // The last key that a query sees, in both directions where there is key_end.
  LORA_DEVICE int LastKey(int b, int query) const {
    if (key_end == nullptr) return query;
    const int end = key_end[int64_t{b} * queries + query];
    const int last = (end < queries ? end : queries) - 1;
    return window > 0 && window - 1 < last - query ? query + window - 1 : last;
  }
  // Where the first tile of keys begins, if the first key that a row sees is `key`.
  LORA_DEVICE int FirstTile(int key) const { return key; }
  // Finds tiles of keys of one (batch, kv head): the offset of a tile's first key, and the distance
  // from each key to the next.
  struct Tiles {
    int64_t first, pitch;
    LORA_DEVICE int64_t Offset(int from) const { return first + from * pitch; }
  };
  LORA_DEVICE Tiles TilesOf(int b, int h) const {
    return {KeyOffset(b, h, 0), int64_t{kv_heads} * d};
  }
};

// Keys in pages of 64 (core/ops/pages.h). Tiles begin at multiples of their size, so that each lies
// in one page.
constexpr int kPageKeys = 64;
struct PagedShape : AttentionShape {
  const int32_t* pages;    // [batch, max_pages]
  const int32_t* lengths;  // [batch]
  int64_t max_pages;

  LORA_DEVICE int64_t KeyOffset(int b, int h, int key) const { return TilesOf(b, h).Offset(key); }
  LORA_DEVICE int Position(int b) const { return lengths[b] - queries; }
  LORA_DEVICE int LastKey(int b, int query) const { return Position(b) + query; }
  LORA_DEVICE int FirstTile(int key) const { return key - key % kPageKeys; }
  struct Tiles {
    const int32_t* pages;  // of the sequence
    int h, kv_heads;
    int64_t pitch;
    LORA_DEVICE int64_t Offset(int from) const {
      const int64_t page = pages[from / kPageKeys];
      return ((page * kv_heads + h) * kPageKeys + from % kPageKeys) * pitch;
    }
  };
  LORA_DEVICE Tiles TilesOf(int b, int h) const { return {pages + b * max_pages, h, kv_heads, d}; }
};

struct LargerFloat {
  LORA_DEVICE float operator()(float a, float b) const { return Larger(a, b); }
};
LORA_DEVICE int Least(int a, int b) { return b < a ? b : a; }
LORA_DEVICE int Greatest(int a, int b) { return a < b ? b : a; }

// A query sees the keys lo ≤ j ≤ hi; lo > hi where it sees none.
struct Interval {
  int lo, hi;
};
template <class Shape>
LORA_DEVICE Interval SeenByQuery(const Shape& s, int b, int query) {
  const int position = s.Position(b) + query;
  int lo = s.key_begin ? Greatest(s.key_begin[int64_t{b} * s.queries + query], 0) : 0;
  if (s.window > 0) lo = Greatest(lo, position - s.window + 1);
  const int hi = s.LastKey(b, query);
  return lo > hi ? Interval{kNoKey, -1} : Interval{lo, hi};
}

// What the rows of a tile see together: no row sees a key outside [begin, end), and all rows see
// the keys all_lo ≤ j ≤ all_hi.
struct TileSight {
  int begin, end, all_lo, all_hi;
  LORA_DEVICE bool All(int from, int to) const { return all_lo <= from && all_hi >= to - 1; }
};

// Looks at rows [first, first + kRows), of which only those below `count` exist. Every warp
// computes the result. The block fills lo and hi (kRows each, in shared memory), which may be
// read after a barrier.
template <int kRows, class Shape>
LORA_DEVICE TileSight LookAt(const Shape& s, int b, int first, int count, int* lo, int* hi) {
  int least_lo = kNoKey, most_lo = 0, least_hi = kNoKey, most_hi = -1;
  LORA_UNROLL
  for (int n = 0; n < (kRows + 31) / 32; ++n) {
    const int r = n * 32 + LaneIndex();
    Interval seen{kNoKey, -1};
    if (r < kRows && r < count) {
      seen = SeenByQuery(s, b, (first + r) / s.group);
      least_lo = Least(least_lo, seen.lo);
      most_lo = Greatest(most_lo, seen.lo);
      least_hi = Least(least_hi, seen.hi);
      most_hi = Greatest(most_hi, seen.hi);
    }
    if (r < kRows && ThreadIndex() / 32 == n) {
      lo[r] = seen.lo;
      hi[r] = seen.hi;
    }
  }
  LORA_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    least_lo = Least(least_lo, ShuffleXor(least_lo, mask));
    most_lo = Greatest(most_lo, ShuffleXor(most_lo, mask));
    least_hi = Least(least_hi, ShuffleXor(least_hi, mask));
    most_hi = Greatest(most_hi, ShuffleXor(most_hi, mask));
  }
  return {s.FirstTile(least_lo), most_hi + 1, most_lo, least_hi};
}

// The end of the forward pass of rows. In parts: part `split` of the keys of a row leaves its
// unscaled sum, its maximum
// and its sum of weights, and the last block of a tile of rows makes one result of them
// (attention_finish.cuh).
struct AttentionParts {
  float* sums = nullptr;  // [splits, batch, kv_heads, rows, d]; null where there is one part
  float* max = nullptr;   // [splits, batch, kv_heads, rows]
  float* weight = nullptr;
  uint32_t* counters = nullptr;  // of each tile of rows
  const float* sinks = nullptr;  // [q_heads], or null
  int splits = 1;
};

// What the sums of the keys of a row come to, together with the sink of its head.
struct RowEnd {
  float base, total;
  float inverse;  // what the sum of values must be multiplied by
  LORA_DEVICE float Lse() const { return total == 0 ? -INFINITY : base * kLn2 + Log(total); }
};
LORA_DEVICE RowEnd EndOfRow(const AttentionShape& s, const AttentionParts& parts, int h, int row,
                            float max, float weight) {
  if (parts.sinks == nullptr) return {max, weight, weight == 0 ? 0.0f : 1 / weight};
  const float sink = kLog2E * parts.sinks[h * s.group + row % s.group];
  const float largest = Larger(max, sink);
  const float base = largest == -INFINITY ? 0.0f : largest;
  const float kept = Exp2(max - base), total = kept * weight + Exp2(sink - base);
  return {base, total, total == 0 ? 0.0f : kept / total};
}
constexpr int kMaxParts = 64;

// Narrows [begin, end) to the keys of part `split`; the parts are equal numbers of whole tiles.
template <int kKeys>
LORA_DEVICE void TakePart(int splits, int split, int& begin, int& end) {
  if (splits == 1 || begin >= end) return;
  const int tiles = (end - begin + kKeys - 1) / kKeys;
  const int each = (tiles + splits - 1) / splits * kKeys;
  const int64_t from = begin + int64_t{split} * each;
  begin = from < end ? static_cast<int>(from) : end;
  end = end - begin < each ? end : begin + each;
}

}  // namespace lora::device
