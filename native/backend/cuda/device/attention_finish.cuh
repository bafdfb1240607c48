// The end of the forward pass of attention where the keys of a tile of rows are split: the last of
// the blocks that share a tile adds their parts in order.
#pragma once

#include <type_traits>

#include "backend/cuda/device/attention.cuh"
#include "backend/cuda/device/last_block.cuh"

namespace lora::device {

// A row of y is its parts, each times a factor of its own, times `inverse`.
struct RowFactor {
  float inverse, lse;
};
// Writes the factors [part·pitch] of the parts of row `at` of `rows`.
LORA_DEVICE RowFactor FactorsOfRow(const AttentionParts& parts, int64_t rows, int64_t at,
                                   float* factors, int pitch) {
  constexpr int kAtOnce = 16;  // so many parts are loaded before the first is looked at
  float max = -INFINITY, weight = 0;
  LORA_ROLL
  for (int part = 0; part < parts.splits; part += kAtOnce) {
    LORA_UNROLL
    for (int n = 0; n < kAtOnce; ++n)
      if (part + n < parts.splits) max = Larger(max, parts.max[(part + n) * rows + at]);
  }
  const float base = max == -INFINITY ? 0.0f : max;
  LORA_ROLL
  for (int part = 0; part < parts.splits; part += kAtOnce) {
    float maxima[kAtOnce], weights[kAtOnce];
    LORA_UNROLL
    for (int n = 0; n < kAtOnce; ++n) {
      if (part + n >= parts.splits) continue;
      maxima[n] = parts.max[(part + n) * rows + at];
      weights[n] = parts.weight[(part + n) * rows + at];
    }
    LORA_UNROLL
    for (int n = 0; n < kAtOnce; ++n) {
      if (part + n >= parts.splits) continue;
      const float factor = Exp2(maxima[n] - base);
      factors[(part + n) * pitch] = factor;
      weight += factor * weights[n];
    }
  }
  return {weight == 0 ? 0.0f : 1 / weight, weight == 0 ? -INFINITY : base * kLn2 + Log(weight)};
}

// Writes rows [first, first + count) of y and lse of a (batch, kv head), if this block is the last
// to have stored its part of them. Every thread calls this. `shared` is the memory of the block,
// whose tiles are not used any more.
template <class P>
LORA_DEVICE void FinishRows(const P& p, unsigned char* shared, int pair, int first, int count) {
  using T = std::remove_pointer_t<decltype(P::y)>;
  constexpr int kColumns = 4;  // of a thread: with more, a token's few rows would leave many idle
  uint32_t* const word = reinterpret_cast<uint32_t*>(shared);
  float* const inverse = reinterpret_cast<float*>(shared + 16);  // [row]
  float* const factors = inverse + P::kRows;                     // [part][row]
  static_assert(16 + (1 + kMostParts) * P::kRows * 4 <= P::kSharedBytes);
  const AttentionShape& s = p.s;
  const AttentionParts& parts = p.parts;
  if (!IsLastBlock(parts.counters + BlockX() / parts.splits, parts.splits, word)) return;
  const int64_t rows = int64_t{s.batch} * s.kv_heads * s.rows;
  const int64_t at = int64_t{pair} * s.rows + first;
  const int b = pair / s.kv_heads, h = pair % s.kv_heads;
  for (int r = ThreadIndex(); r < count; r += P::kThreads) {
    const RowFactor row = FactorsOfRow(parts, rows, at + r, factors + r, P::kRows);
    inverse[r] = row.inverse;
    if (p.lse) p.lse[s.LseOffset(b, h, first + r)] = row.lse;
  }
  SyncThreads();
  const int blocks = (s.d + kColumns - 1) / kColumns;
  LORA_ROLL
  for (int i = ThreadIndex(); i < count * blocks; i += P::kThreads) {
    const int r = i / blocks, c = i % blocks * kColumns;
    float values[kColumns];
    LORA_UNROLL
    for (int j = 0; j < kColumns; ++j) values[j] = 0;
    AddParts<8>(values, parts.sums + (at + r) * s.d, c, s.d, rows * s.d, parts.splits,
                [&](int part) { return factors[part * P::kRows + r]; });
    T* const y = p.y + s.QueryOffset(b, h, first + r);
    LORA_UNROLL
    for (int j = 0; j < kColumns; ++j)
      if (c + j < s.d) y[c + j] = FromFloat<T>(values[j] * inverse[r]);
  }
}

}  // namespace lora::device
