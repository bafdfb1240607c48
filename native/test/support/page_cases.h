// Sequences whose keys and values lie both in one block each and in pages.
#pragma once

#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "test/support/attention_cases.h"

namespace lora::test::attention {

struct PagedCase {
  DType dtype = DType::kF32;
  AttentionPhase phase = AttentionPhase::kDecode;
  int64_t queries = 1, q_heads = 1, kv_heads = 1, d = 8, window = 0;
  std::vector<int64_t> lengths;  // of the sequences, the queries included
  bool sinks = false;

  std::string Name() const {
    std::ostringstream out;
    out << NameOf(dtype) << (phase == AttentionPhase::kDecode ? " decode" : " prefill")
        << " queries " << queries << " heads " << q_heads << '/' << kv_heads << " d " << d
        << " window " << window << (sinks ? " sinks" : "") << " lengths";
    for (const int64_t length : lengths) out << ' ' << length;
    return out.str();
  }
  AttentionCase Sequence(int64_t length) const {
    return {dtype, 1, queries, q_heads, kv_heads, d, window, false, length - queries, false, sinks};
  }
};

// Copies `count` elements between tensors of one dtype, bit for bit.
inline void CopyElements(const Tensor& from, int64_t at, const Tensor& to, int64_t place,
                         int64_t count) {
  const size_t size = SizeOf(from.dtype());
  REQUIRE((at + count <= from.numel() && place + count <= to.numel()));
  std::memcpy(to.view().as<std::byte>() + static_cast<size_t>(place) * size,
              from.view().as<std::byte>() + static_cast<size_t>(at) * size,
              static_cast<size_t>(count) * size);
}

// Says where the pages of sequences lie: in any order, among pages of nobody. Entries of the table
// that name no page are −7.
struct PageLayout {
  int64_t pages = 0;
  Tensor table, lengths;

  PageLayout(const std::vector<int64_t>& sequences, int64_t more_columns, uint32_t seed) {
    const auto batch = static_cast<int64_t>(sequences.size());
    int64_t columns = more_columns, used = 0;
    for (const int64_t length : sequences) {
      columns = std::max(columns, (length + kPageSize - 1) / kPageSize + more_columns);
      used += (length + kPageSize - 1) / kPageSize;
    }
    pages = used + 3;
    std::vector<double> free(static_cast<size_t>(pages));
    for (size_t i = 0; i < free.size(); ++i) free[i] = static_cast<double>(i);
    std::mt19937 random(seed);
    for (size_t i = free.size(); i > 1; --i) std::swap(free[i - 1], free[random() % i]);
    table = Full(DType::kI32, {batch, columns}, -7);
    lengths = Tensor(DType::kI32, {batch});
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t length = sequences[static_cast<size_t>(b)];
      lengths.Set(b, static_cast<double>(length));
      for (int64_t i = 0; i * kPageSize < length; ++i) {
        table.Set(b * columns + i, free.back());
        free.pop_back();
      }
    }
  }
  int64_t Page(int64_t b, int64_t position) const {
    return static_cast<int64_t>(table.at(b * table.shape()[1] + position / kPageSize));
  }
};

// Writes rows of src [1, n, kv_heads, d] to the pages of sequence b, from position 0 on.
inline void Scatter(const Tensor& src, const PageLayout& layout, int64_t b, const Tensor& pool) {
  const int64_t heads = src.shape()[2], d = src.shape()[3];
  for (int64_t p = 0; p < src.shape()[1]; ++p) {
    for (int64_t h = 0; h < heads; ++h) {
      CopyElements(src, (p * heads + h) * d, pool, PageOffset(pool, layout.Page(b, p), h, p), d);
    }
  }
}

struct PagedOperands {
  std::vector<Operands> sequences;
  PageLayout layout;
  Tensor table, lengths;     // of the layout; the table names no page that no query sees
  Tensor q, k_pool, v_pool;  // elements of no position are NaN

  explicit PagedOperands(const PagedCase& c, int64_t more_columns = 0, uint32_t seed = 1)
      : layout(c.lengths, more_columns, seed), table(layout.table), lengths(layout.lengths) {
    const auto batch = static_cast<int64_t>(c.lengths.size());
    const Shape pool{layout.pages, c.kv_heads, kPageSize, c.d};
    q = Tensor(c.dtype, {batch, c.queries, c.q_heads, c.d});
    k_pool = Tensor(c.dtype, pool);
    v_pool = Tensor(c.dtype, pool);
    for (int64_t b = 0; b < batch; ++b) {
      Operands o(c.Sequence(c.lengths[static_cast<size_t>(b)]));
      const auto own = static_cast<uint64_t>(10 + 3 * b);
      o.q = Normal(c.dtype, o.q.shape(), own);
      o.k = Normal(c.dtype, o.k.shape(), own + 1);
      o.v = Normal(c.dtype, o.v.shape(), own + 2);
      CopyElements(o.q, 0, q, b * o.q.numel(), o.q.numel());
      Scatter(o.k, layout, b, k_pool);
      Scatter(o.v, layout, b, v_pool);
      sequences.push_back(std::move(o));
    }
    const int64_t columns = table.shape()[1];
    for (int64_t b = 0; b < batch; ++b) {
      const UsedPositions used{c.queries, c.window};
      const int64_t first = used.First(c.lengths[static_cast<size_t>(b)]) / kPageSize;
      for (int64_t i = 0; i < first; ++i) table.Set(b * columns + i, 1e6);
    }
  }
};

inline AttentionPagedArgs PagedArgs(const PagedCase& c, const PagedOperands& o, const Tensor& y) {
  AttentionPagedArgs args;
  args.q = o.q;
  args.k_pool = o.k_pool;
  args.v_pool = o.v_pool;
  args.page_table = o.table;
  args.lengths = o.lengths;
  args.window = c.window;
  args.scale = 1 / std::sqrt(static_cast<float>(c.d));
  args.phase = c.phase;
  args.y = y;
  if (c.sinks) args.sinks = o.sequences[0].sinks;  // those of all sequences
  return args;
}

// Returns rows [first, first + count) of the first dimension.
inline Tensor Rows(const Tensor& x, int64_t first, int64_t count) {
  Shape shape{count};
  for (int i = 1; i < x.shape().rank(); ++i) shape.push_back(x.shape()[i]);
  const Tensor rows(x.dtype(), shape);
  const int64_t width = x.shape()[0] == 0 ? 0 : x.numel() / x.shape()[0];
  CopyElements(x, first * width, rows, 0, count * width);
  return rows;
}

}  // namespace lora::test::attention
