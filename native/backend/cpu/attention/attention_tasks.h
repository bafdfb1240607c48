// The tiles of attention_forward and attention_backward share what is here: the sizes of a tile,
// the shape of a call, and which keys a row sees.
//
// The query heads of one kv head are computed together: row r of a (batch, kv head) is head r %
// group of query r / group. So a tile of rows reads each key once for all heads of its group, and a
// decode step is a tile of `group` rows. Rows are in the lanes of a vector: scores are kept
// transposed, [key][row], so that softmax needs no reduction across lanes, and k and v are read in
// memory order with one broadcast per element.
//
// Keys lie in one block of memory per sequence, or in pages (core/ops/pages.h). A tile of keys
// begins at a multiple of kKeyTile, so it lies in one page, and what a row sums up follows from its
// own position alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "core/maths/ceil_div.h"
#include "core/ops/ops.h"

namespace lora::cpu {

constexpr size_t kMaxLanes = 16;  // of a vector of f32, on any target
constexpr size_t kRowTile = 64, kKeyTile = 64;
constexpr size_t kDecodeRows = 8;     // at most this many rows per kv head take the decode path
constexpr size_t kDecodeChunk = 128;  // keys per task of the decode path; a multiple of kKeyTile
static_assert(kPageSize % kKeyTile == 0 && kDecodeChunk % kKeyTile == 0);

struct AttentionShape {
  size_t batch = 0, queries = 0, q_heads = 0, kv_heads = 0, group = 0;
  size_t most_keys = 0;      // that a sequence may have
  size_t d = 0, padded = 0;  // head dim, and rounded up to kMaxLanes
  size_t rows = 0;           // per (batch, kv head): queries · group
  int64_t window = 0;
  float scale = 1;
  const int32_t *key_begin = nullptr, *key_end = nullptr;  // [batch, queries], or null
  const int32_t *pages = nullptr, *lengths = nullptr;      // [batch, max_pages], [batch]; or null
  size_t max_pages = 0;

  AttentionShape(const TensorView& q, const TensorView& k, const TensorView& key_begin_view,
                 const TensorView& key_end_view, int64_t window, float scale)
      : batch(static_cast<size_t>(q.dim(0))),
        queries(static_cast<size_t>(q.dim(1))),
        q_heads(static_cast<size_t>(q.dim(2))),
        kv_heads(static_cast<size_t>(k.dim(2))),
        group(kv_heads == 0 ? 0 : q_heads / kv_heads),
        most_keys(queries),
        d(static_cast<size_t>(q.dim(3))),
        padded(RoundUp(d, kMaxLanes)),
        rows(queries * group),
        window(window),
        scale(scale),
        key_begin(key_begin_view ? key_begin_view.as<const int32_t>() : nullptr),
        key_end(key_end_view ? key_end_view.as<const int32_t>() : nullptr) {}

  explicit AttentionShape(const AttentionPagedArgs& args)
      : batch(static_cast<size_t>(args.q.dim(0))),
        queries(static_cast<size_t>(args.q.dim(1))),
        q_heads(static_cast<size_t>(args.q.dim(2))),
        kv_heads(static_cast<size_t>(args.k_pool.dim(1))),
        group(kv_heads == 0 ? 0 : q_heads / kv_heads),
        most_keys(static_cast<size_t>(args.page_table.dim(1) * kPageSize)),
        d(static_cast<size_t>(args.q.dim(3))),
        padded(RoundUp(d, kMaxLanes)),
        rows(queries * group),
        window(args.window),
        scale(args.scale),
        pages(args.page_table.as<const int32_t>()),
        lengths(args.lengths.as<const int32_t>()),
        max_pages(static_cast<size_t>(args.page_table.dim(1))) {}

  bool empty() const { return batch == 0 || rows == 0; }
  size_t pairs() const { return batch * kv_heads; }
  size_t row_tiles() const { return CeilDiv(rows, kRowTile); }
  int64_t Position(size_t b) const {  // of the first query
    return lengths == nullptr ? 0 : lengths[b] - static_cast<int64_t>(queries);
  }

  size_t QueryOffset(size_t b, size_t query, size_t q_head) const {  // of q, y, g, dq, in elements
    return ((b * queries + query) * q_heads + q_head) * d;
  }
  size_t KeyOffset(size_t b, size_t h, size_t key) const {  // of k, v, dk, dv
    if (pages == nullptr) return ((b * queries + key) * kv_heads + h) * d;
    constexpr size_t kSize = kPageSize;
    const size_t page = static_cast<size_t>(pages[b * max_pages + key / kSize]);
    return ((page * kv_heads + h) * kSize + key % kSize) * d;
  }
  // From a key to the next one of its tile.
  size_t key_stride() const { return pages == nullptr ? kv_heads * d : d; }
  size_t LseOffset(size_t b, size_t query, size_t q_head) const {
    return (b * q_heads + q_head) * queries + query;
  }
};

// Rows [first, first + count) of (batch, head) and the keys lo[r] ≤ j ≤ hi[r] that each sees. Rows
// up to the next multiple of kMaxLanes exist as padding and see no key.
struct RowTile {
  size_t batch, head, first, count;
  int32_t lo[kRowTile], hi[kRowTile];
  size_t offset[kRowTile],
      lse_offset[kRowTile];    // of a row in q, y, g and dq, and in lse
  int32_t begin, end;          // every visible key is in [begin, end)
  int32_t all_begin, all_end;  // every row sees the keys [all_begin, all_end), if there are any

  RowTile(const AttentionShape& s, size_t batch, size_t head, size_t first, size_t count)
      : batch(batch),
        head(head),
        first(first),
        count(count),
        begin(INT32_MAX),
        end(0),
        all_begin(0),
        all_end(INT32_MAX) {
    for (size_t r = 0; r < padded(); ++r) {
      lo[r] = 1;
      hi[r] = 0;
    }
    // Query and head are counted along, without a division for each row.
    size_t query = first / s.group, h = first % s.group;
    for (size_t r = 0; r < count; ++r) {
      offset[r] = s.QueryOffset(batch, query, head * s.group + h);
      lse_offset[r] = s.LseOffset(batch, query, head * s.group + h);
      const int64_t position = s.Position(batch) + static_cast<int64_t>(query);
      int64_t low = s.key_begin ? std::max(s.key_begin[batch * s.queries + query], 0) : 0;
      if (s.window > 0) low = std::max(low, position - s.window + 1);
      const int64_t high = s.key_end ? LastAhead(s, query) : position;
      if (low <= high) {
        lo[r] = static_cast<int32_t>(low);
        hi[r] = static_cast<int32_t>(high);
        begin = std::min(begin, lo[r]);
        end = std::max(end, hi[r] + 1);
      }
      all_begin = std::max(all_begin, lo[r]);
      all_end = std::min(all_end, hi[r] + 1);
      if (++h == s.group) {
        h = 0;
        ++query;
      }
    }
    begin = std::min(begin, end);
  }

  // The last key that a query sees where it sees in both directions.
  int64_t LastAhead(const AttentionShape& s, size_t query) const {
    const int64_t end = s.key_end[batch * s.queries + query];
    const int64_t last = std::min(end, static_cast<int64_t>(s.queries)) - 1;
    return s.window > 0 ? std::min(last, static_cast<int64_t>(query) + s.window - 1) : last;
  }

  size_t padded() const { return RoundUp(count, kMaxLanes); }
  // The head of q of a row.
  size_t QueryHead(const AttentionShape& s, size_t r) const {
    return head * s.group + (first + r) % s.group;
  }
  int32_t first_tile() const { return begin - begin % static_cast<int32_t>(kKeyTile); }
  // The end of the tile of keys in which key `from` lies.
  int32_t TileEnd(int32_t from) const {
    constexpr auto kTile = static_cast<int32_t>(kKeyTile);
    return std::min(end, from - from % kTile + kTile);
  }

  enum class Visible { kNone, kSome, kAll };
  Visible Sees(int32_t from, int32_t to) const {  // keys [from, to)
    if (all_begin <= from && to <= all_end) return Visible::kAll;
    bool any = false;
    for (size_t r = 0; r < count; ++r) any |= lo[r] < to && hi[r] >= from;
    return any ? Visible::kSome : Visible::kNone;
  }
};

// The most row tiles of a block.
constexpr size_t kMaxTiles = 4;

// Tiles of rows that follow each other, which take a tile of keys one after the other. A row's
// results do not depend on the other tiles of its block.
class RowBlock {
 public:
  // Has rows [first, first + count) of (batch, head), of kMaxTiles tiles at most.
  RowBlock(const AttentionShape& s, size_t batch, size_t head, size_t first, size_t count) {
    for (size_t from = 0; from < count; from += kRowTile) {
      const size_t rows = std::min(kRowTile, count - from);
      const RowTile& tile = tiles_[size_++].emplace(s, batch, head, first + from, rows);
      begin_ = std::min(begin_, tile.first_tile());
      end_ = std::max(end_, tile.end);
    }
  }
  size_t size() const { return size_; }
  const RowTile& operator[](size_t i) const { return *tiles_[i]; }

  // Every visible key is in [begin, end), where begin is that of a tile of keys.
  int32_t begin() const { return begin_; }
  int32_t end() const { return end_; }

 private:
  std::optional<RowTile> tiles_[kMaxTiles];
  size_t size_ = 0;
  int32_t begin_ = INT32_MAX, end_ = 0;
};

// ---- scratch, in floats; every piece is a multiple of 64 bytes --------------------------------

// What the tiles of a block share, and what each has of its own.
inline size_t OwnForwardFloats(const AttentionShape& s) {
  return 2 * kRowTile * s.padded + 4 * kRowTile;
}
inline size_t ForwardFloats(const AttentionShape& s, size_t tiles) {
  return kRowTile * s.padded + 3 * kKeyTile * s.padded + kKeyTile * kRowTile +
         tiles * OwnForwardFloats(s);
}
struct ForwardScratch {
  float *rows, *keys, *values, *transposed, *scores, *own;
  ForwardScratch(const AttentionShape& s, float* p) {
    const size_t cols = kKeyTile * s.padded;
    rows = p;
    keys = rows + kRowTile * s.padded;
    values = keys + cols;
    transposed = values + cols;
    scores = transposed + cols;
    own = scores + kKeyTile * kRowTile;
  }
};
struct ForwardTileScratch {
  float *q_t, *out_t, *max, *sum, *weights, *alpha;
  ForwardTileScratch(const AttentionShape& s, const ForwardScratch& of_block, size_t tile) {
    q_t = of_block.own + tile * OwnForwardFloats(s);
    out_t = q_t + kRowTile * s.padded;
    max = out_t + kRowTile * s.padded;
    sum = max + kRowTile;
    weights = sum + kRowTile;
    alpha = weights + kRowTile;
  }
};

// One partial result of the decode path: unscaled output [rows][padded], max and sum of each row.
inline size_t DecodePartialFloats(const AttentionShape& s) {
  return std::min(s.rows, kDecodeRows) * s.padded + 2 * kMaxLanes;
}
struct DecodePartial {
  float *out, *max, *sum;
  DecodePartial(const AttentionShape& s, float* p)
      : out(p), max(p + std::min(s.rows, kDecodeRows) * s.padded), sum(max + kMaxLanes) {}
};
// What a thread of the decode path works on.
struct DecodeScratch {
  float* q;       // in the layout of the products
  float* scores;  // [kDecodeRows][kKeyTile]
  float* p;       // rounded to bf16, where the products want it so
  static constexpr size_t kScores = kDecodeRows * kKeyTile;
  static size_t QueryFloats(const AttentionShape& s) {
    return kDecodeRows * RoundUp(s.d, 2 * kMaxLanes);
  }
  static size_t Floats(const AttentionShape& s) { return QueryFloats(s) + kScores * 3 / 2; }
  DecodeScratch(const AttentionShape& s, float* at)
      : q(at), scores(q + QueryFloats(s)), p(scores + kScores) {}
};

// A unit of work of the decode path: a chunk of the keys of one sequence, one kv head and at most
// kDecodeRows of its rows.
struct DecodeUnit {
  size_t batch, head, tile;  // tile: of the rows
  int32_t begin, end;        // of the keys, some of which the sequence may not have
  DecodePartial out;
};

// The units of a call. The heads of a chunk follow each other, because their keys lie together.
class DecodeUnits {
 public:
  // `starts` has room for [batch + 1] numbers, and `partials` for PartialFloats.
  DecodeUnits(const AttentionShape& s, size_t* starts, float* partials)
      : s_(s), starts_(starts), partials_(partials) {
    starts_[0] = 0;
    for (size_t b = 0; b < s.batch; ++b) starts_[b + 1] = starts_[b] + ChunksOf(b).count;
  }
  static size_t PartialFloats(const AttentionShape& s) {
    return s.batch * Heads(s) * MaxChunks(s) * DecodePartialFloats(s);
  }

  size_t count() const { return starts_[s_.batch] * heads(); }
  size_t tiles() const { return Tiles(s_); }  // of the rows of a kv head
  size_t heads() const { return Heads(s_); }  // tiles of all kv heads
  size_t chunks(size_t b) const { return ChunksOf(b).count; }
  // Where the partial results of the chunks of a tile lie, stride() floats apart.
  float* partials(size_t b, size_t head) const {
    return partials_ + (b * heads() + head) * MaxChunks(s_) * stride();
  }
  size_t stride() const { return DecodePartialFloats(s_); }

  DecodeUnit At(size_t i) const {
    const size_t number = i / heads(), head = i % heads();
    const size_t* const next = std::upper_bound(starts_, starts_ + s_.batch + 1, number);
    const size_t b = static_cast<size_t>(next - starts_) - 1, chunk = number - starts_[b];
    const auto begin = static_cast<int32_t>((ChunksOf(b).first + chunk) * kDecodeChunk);
    return {b,
            head / tiles(),
            head % tiles(),
            begin,
            begin + static_cast<int32_t>(kDecodeChunk),
            DecodePartial(s_, partials(b, head) + chunk * stride())};
  }
  // Returns where the first key that a unit may see lies.
  size_t FirstKey(const DecodeUnit& unit) const {
    const size_t key = std::max(FirstSeen(unit.batch), static_cast<size_t>(unit.begin));
    return s_.KeyOffset(unit.batch, unit.head, key);
  }

 private:
  struct Chunks {
    size_t first, count;
  };
  static size_t Tiles(const AttentionShape& s) { return CeilDiv(s.rows, kDecodeRows); }
  static size_t Heads(const AttentionShape& s) { return s.kv_heads * Tiles(s); }
  // The most that a sequence can have, from the sizes of the call alone.
  static size_t MaxChunks(const AttentionShape& s) {
    const auto window = static_cast<size_t>(s.window);
    size_t keys = s.most_keys, more = 0;
    if (window > 0 && window < keys) {
      keys = std::min(keys, window + s.queries - 1);
      more = 1;  // they may begin and end inside a chunk
    }
    return CeilDiv(keys, kDecodeChunk) + more;
  }
  size_t FirstSeen(size_t b) const {
    return s_.window > 0 ? static_cast<size_t>(std::max<int64_t>(0, s_.Position(b) - s_.window + 1))
                         : 0;
  }
  // The chunks of keys that the queries of a sequence see.
  Chunks ChunksOf(size_t b) const {
    const auto end = static_cast<size_t>(s_.Position(b)) + s_.queries;
    const size_t first = FirstSeen(b) / kDecodeChunk;
    return {first, CeilDiv(end, kDecodeChunk) - first};
  }

  const AttentionShape& s_;
  size_t* starts_;
  float* partials_;
};

inline size_t OwnBackwardFloats(const AttentionShape& s) {
  return 5 * kRowTile * s.padded + 2 * kRowTile;
}
inline size_t BackwardFloats(const AttentionShape& s, size_t tiles) {
  return 2 * kKeyTile * s.padded + 3 * kKeyTile * kRowTile + tiles * OwnBackwardFloats(s);
}
struct BackwardScratch {
  float *keys, *values, *p, *ds, *own;
  uint16_t *p_rows, *ds_rows;  // P and dS as bf16 [key][row]
  BackwardScratch(const AttentionShape& s, float* base) {
    const size_t cols = kKeyTile * s.padded;
    keys = base;
    values = keys + cols;
    p = values + cols;
    ds = p + kKeyTile * kRowTile;
    p_rows = reinterpret_cast<uint16_t*>(ds + kKeyTile * kRowTile);
    ds_rows = p_rows + kKeyTile * kRowTile;
    own = ds + 2 * kKeyTile * kRowTile;
  }
};
struct BackwardTileScratch {  // lse is in units of ln 2
  float *q, *q_t, *g, *g_t, *dq_t, *lse, *delta;
  BackwardTileScratch(const AttentionShape& s, const BackwardScratch& of_block, size_t tile) {
    const size_t rows = kRowTile * s.padded;
    q = of_block.own + tile * OwnBackwardFloats(s);
    q_t = q + rows;
    g = q_t + rows;
    g_t = g + rows;
    dq_t = g_t + rows;
    lse = dq_t + rows;
    delta = lse + kRowTile;
  }
};

}  // namespace lora::cpu
