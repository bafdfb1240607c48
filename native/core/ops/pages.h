// Describes the ops over keys and values in pages. Sequences of any length share one pool per layer
// (Kwon et al. 2023), without a copy when one grows. See ops.h for what all ops share.
//
// A pool is [pages, kv_heads, 64, d], so that the 64 positions of a head are one block of memory.
// Position p of sequence b lies at pool[page_table[b, p / 64], head, p % 64]. lengths[b] is how
// many positions sequence b has, those of the call included: of s positions in a call, i is at
// position lengths[b] − s + i. Tables and lengths are data, which is read when an op runs. A length
// or a page out of range fails the op with ERR_DATA before it writes anything. Entries of the table
// that belong to no position which the op uses may be anything.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/ops/describe.h"

namespace lora {

constexpr int64_t kPageSize = 64;

// With p = lengths[b] − s + i, and q and k rotated to position p as rope does (layers.h):
//   y[b, i] = rotated q[b, i]
//   k_pool[page_table[b, p / 64], :, p % 64] ← rotated k[b, i]
//   v_pool[page_table[b, p / 64], :, p % 64] ← v[b, i]
// Other positions keep their values. No two sequences may write to one position; several may have
// the same pages, such as tokens of one text that are sequences of lengths n, n + 1, …: the op has
// written all of them when attention_paged reads. With `table_start`, the angles of position p of
// sequence b are row table_start[b] + p of cos and sin, so that several tables may lie below one
// another. A start after which fewer than 64·max_pages rows are left fails the op with ERR_DATA
// before it writes anything.
struct PageAppendArgs {
  TensorView q;               // [b, s, q_heads, d] act
  TensorView k, v;            // [b, s, kv_heads, d] act
  TensorView cos, sin;        // [positions, w] f32, of at least 64·max_pages positions
  TensorView k_pool, v_pool;  // [pages, kv_heads, 64, d] act, not the same memory
  TensorView page_table;      // [b, max_pages] i32
  TensorView lengths;         // [b] i32
  TensorView y;               // [b, s, q_heads, d] act
  TensorView table_start{};   // [b] i32, or absent: 0

  static constexpr auto Describe() {
    using A = PageAppendArgs;
    return OpDescription{
        "page_append",
        "page_append",
        In("q", &A::q).Activation(),
        In("k", &A::k),
        In("v", &A::v),
        In("cos", &A::cos),
        In("sin", &A::sin),
        // A call that failed leaves keys that were not written, which must not be read as if they
        // were: so it fails the pools.
        InOut("kPool", &A::k_pool),
        InOut("vPool", &A::v_pool),
        In("pageTable", &A::page_table),
        In("lengths", &A::lengths),
        In("tableStart", &A::table_start).OrNone(),
        Out("y", &A::y, Like<&A::q>),
    };
  }
};
void Check(const PageAppendArgs&);

// positions[b, i] = lengths[b] − s + i, or 0 where that is negative: where page_append puts the s
// tokens of a call.
struct PositionsArgs {
  TensorView lengths;    // [b] i32
  int64_t count = 0;     // s
  TensorView positions;  // [b, s] i32

  static constexpr auto Describe() {
    using A = PositionsArgs;
    return OpDescription{
        "positions",
        "positions",
        In("lengths", &A::lengths),
        Whole("count", &A::count),
        Out("positions", &A::positions,
            [](const A& a) { return Result{DType::kI32, {a.lengths.dim(0), a.count}}; }),
    };
  }
};
void Check(const PositionsArgs&);

enum class AttentionPhase : uint8_t {
  kPrefill,  // a chunk of queries of each sequence
  kDecode,   // one query of each sequence
};
inline constexpr const char* kAttentionPhases[] = {"prefill", "decode"};

// Computes causal grouped-query attention, without a gradient:
//   y = softmax(scale·q·kᵀ)·v
// The query at position p sees the keys j with max(0, p − window + 1) ≤ j ≤ p, and a window of 0 is
// none. Sinks are those of attention (layers.h). The phase chooses the kernel. On the CPU the bits
// of a query follow from its own sequence
// and position alone: neither the other sequences, nor max_pages, nor where a prompt is cut into
// chunks changes them.
struct AttentionPagedArgs {
  TensorView q;               // [b, sq, q_heads, d] act
  TensorView k_pool, v_pool;  // [pages, kv_heads, 64, d] act
  TensorView page_table;      // [b, max_pages] i32
  TensorView lengths;         // [b] i32
  int64_t window = 0;
  float scale = 1;
  AttentionPhase phase = AttentionPhase::kPrefill;
  TensorView y;        // [b, sq, q_heads, d] act
  TensorView sinks{};  // [q_heads] f32, or absent

  static constexpr auto Describe() {
    using A = AttentionPagedArgs;
    return OpDescription{
        "attention_paged",
        "attention_paged",
        In("q", &A::q).Activation(),
        In("kPool", &A::k_pool),
        In("vPool", &A::v_pool),
        In("pageTable", &A::page_table),
        In("lengths", &A::lengths),
        In("sinks", &A::sinks).OrNone(),
        Options(Whole("window", &A::window), Number("scale", &A::scale),
                Choice("phase", &A::phase, kAttentionPhases)),
        Out("y", &A::y, Like<&A::q>),
    };
  }
};
void Check(const AttentionPagedArgs&);

using PageOps = OpList<PageAppendArgs, PositionsArgs, AttentionPagedArgs>;

// ---- for the backends --------------------------------------------------------------------------

// The offset, in elements, of a position of a head in a pool.
inline int64_t PageOffset(const TensorView& pool, int64_t page, int64_t head, int64_t position) {
  return ((page * pool.dim(1) + head) * kPageSize + position % kPageSize) * pool.dim(3);
}

// The positions that an op uses of a sequence that has `length`.
struct UsedPositions {
  int64_t count = 0;   // positions of the call
  int64_t window = 0;  // how many its first position sees, itself included; 0: all before it

  int64_t First(int64_t length) const {
    const int64_t first = length - count - window + 1;
    return window == 0 || first < 0 ? 0 : first;
  }
};
inline UsedPositions UsedBy(const PageAppendArgs& args) { return {args.k.dim(1), 1}; }
inline UsedPositions UsedBy(const AttentionPagedArgs& args) { return {args.q.dim(1), args.window}; }

// These throw ERR_DATA for a length that is out of range, and for a page that is.
[[noreturn]] void ThrowLength(const char* op, int64_t batch, int64_t length, int64_t least,
                              int64_t most);
[[noreturn]] void ThrowPage(const char* op, int64_t batch, int64_t column, int64_t page,
                            int64_t pages);

// The last row of cos at which the table of a sequence may begin, and who says that one does not.
inline int64_t LastTableStart(const PageAppendArgs& args) {
  return args.cos.dim(0) - kPageSize * args.page_table.dim(1);
}
[[noreturn]] void ThrowTableStart(const PageAppendArgs& args, int64_t batch, int64_t start);
// Checks table_start, in host memory.
void CheckTableStart(const PageAppendArgs& args);

// Returns positions[at / count, at % count], with lengths in host memory.
inline int32_t PositionAt(const TensorView& lengths, int64_t count, int64_t at) {
  const int64_t begin = lengths.as<const int32_t>()[at / count] - count;
  return static_cast<int32_t>(std::max<int64_t>(begin + at % count, 0));
}

// Checks lengths and the pages of the positions used, in host memory, for a pool of `pages`.
void CheckPages(const char* op, const TensorView& page_table, const TensorView& lengths,
                int64_t pages, const UsedPositions& used);

}  // namespace lora
