// The end of the forward pass of attention where the keys of a tile of rows are split: the last of
// the blocks that share a tile adds their parts in order.
#pragma once

#include <type_traits>

#include "backend/cuda/device/attention.cuh"
#include "backend/cuda/device/last_block.cuh"

namespace lora::device {

// The warp writes the factors [part·pitch] of the parts of row `at` of `rows`, which is `row` of kv
// head h, to shared memory, so that y is the sum of its parts, each times its factor, and returns
// lse.
LORA_DEVICE float FactorsOfRow(const AttentionShape& s, const AttentionParts& parts, int h, int row,
                               int64_t rows, int64_t at, float* factors, int pitch) {
  static_assert(kMaxParts == 64);  // two of a lane
  float maxima[2], weights[2];
  LORA_UNROLL
  for (int n = 0; n < 2; ++n) {
    const int part = n * 32 + LaneIndex();
    const bool inside = part < parts.splits;
    maxima[n] = inside ? parts.max[part * rows + at] : -INFINITY;
    weights[n] = inside ? parts.weight[part * rows + at] : 0.0f;
  }
  const float max = WarpReduce<32>(Larger(maxima[0], maxima[1]), LargerFloat());
  const float base = max == -INFINITY ? 0.0f : max;
  LORA_UNROLL
  for (int n = 0; n < 2; ++n) maxima[n] = Exp2(maxima[n] - base);
  const float weight = WarpSum(maxima[0] * weights[0] + maxima[1] * weights[1]);
  const RowEnd end = EndOfRow(s, parts, h, row, max, weight);
  LORA_UNROLL
  for (int n = 0; n < 2; ++n) {
    const int part = n * 32 + LaneIndex();
    if (part < parts.splits) factors[part * pitch] = maxima[n] * end.inverse;
  }
  return end.Lse();
}

// Writes rows [first, first + count) of y and lse of a (batch, kv head), if this block is the last
// to have stored its part of them. Every thread calls this. `shared` is the memory of the block,
// whose tiles are not used any more.
template <class P>
LORA_DEVICE void FinishRows(const P& p, unsigned char* shared, int pair, int first, int count) {
  using T = std::remove_pointer_t<decltype(P::y)>;
  constexpr int kColumns = 4;  // of a thread: with more, a token's few rows would leave many idle
  uint32_t* const word = reinterpret_cast<uint32_t*>(shared);
  float* const factors = reinterpret_cast<float*>(shared + 16);  // [part][row]
  static_assert(16 + kMaxParts * P::kRows * 4 <= P::kSharedBytes);
  const AttentionShape& s = p.s;
  const AttentionParts& parts = p.parts;
  if (!IsLastBlock(parts.counters + BlockX() / parts.splits, parts.splits, word)) return;
  const int64_t rows = int64_t{s.batch} * s.kv_heads * s.rows;
  const int64_t at = int64_t{pair} * s.rows + first;
  const int b = pair / s.kv_heads, h = pair % s.kv_heads;
  for (int r = WarpIndex(); r < count; r += P::kThreads / 32) {
    const float lse = FactorsOfRow(s, parts, h, first + r, rows, at + r, factors + r, P::kRows);
    if (p.lse && LaneIndex() == 0) p.lse[s.LseOffset(b, h, first + r)] = lse;
  }
  SyncThreads();
  const int blocks = (s.d + kColumns - 1) / kColumns;
  LORA_ROLL
  for (int i = ThreadIndex(); i < count * blocks; i += P::kThreads) {
    const int r = i / blocks, c = i % blocks * kColumns;
    float values[kColumns];
    LORA_UNROLL
    for (int j = 0; j < kColumns; ++j) values[j] = 0;
    AddParts<4>(values, parts.sums + (at + r) * s.d, c, s.d, rows * s.d, parts.splits,
                [&](int part) { return factors[part * P::kRows + r]; });
    T* const y = p.y + s.QueryOffset(b, h, first + r);
    LORA_UNROLL
    for (int j = 0; j < kColumns; ++j)
      if (c + j < s.d) y[c + j] = FromFloat<T>(values[j]);
  }
}

}  // namespace lora::device
