// Describes the layers of a Llama-family model. See ops.h for what all ops share.
#pragma once

#include <cstdint>

#include "core/maths/kinds.h"
#include "core/ops/describe.h"

namespace lora {

// y[i] = weight[ids[i]]; an id outside [0, rows) fails the op with ERR_DATA.
struct EmbeddingArgs {
  PackedView weight;  // [vocab, dim]
  TensorView ids;     // [n] i32
  TensorView y;       // [n, dim] of the weight's dtype

  static constexpr auto Describe() {
    using A = EmbeddingArgs;
    return OpDescription{
        "embedding",
        "embedding",
        Weight("weight", &A::weight).Activation(),
        In("ids", &A::ids).Flat(),
        Out("y", &A::y,
            [](const A& a) { return Result{a.weight.dtype, {a.ids.dim(0), a.weight.cols}}; })
            .Rows(),
    };
  }
};
void Check(const EmbeddingArgs&);

// dw[v] += Σ over the i with ids[i] = v of g[i], in rising order of i, so that the bits follow
// from the operands alone; an id outside [0, vocab) fails the op with ERR_DATA.
struct EmbeddingBackwardArgs {
  TensorView g;    // [n, dim] f32
  TensorView ids;  // [n] i32
  TensorView dw;   // [vocab, dim] f32

  static constexpr auto Describe() {
    using A = EmbeddingBackwardArgs;
    return OpDescription{
        "embedding_backward",      "embedding",         In("g", &A::g).Rows(),
        In("ids", &A::ids).Flat(), InOut("dw", &A::dw),
    };
  }
};
void Check(const EmbeddingBackwardArgs&);

// Of s = x + addend, rounded to the dtype of x, or of s = x where there is no addend:
//   rstd = 1/√(mean(s²) + eps),  y = s·rstd·(offset + weight), computed in f32, rounded once.
// An offset of 1 is for models whose weights are stored less 1, where adding it in bf16 would lose
// their digits. One of 0 leaves the weight its bits, −0 among them.
struct RmsNormForwardArgs {
  TensorView x;       // [n, d] act or f32
  TensorView addend;  // [n, d] act, or absent
  TensorView weight;  // [d] act or f32
  float eps = 0;
  TensorView sum;   // s [n, d], of the dtype of x; absent where addend is
  TensorView y;     // [n, d] act
  TensorView rstd;  // [n] f32, or absent
  float offset = 0;

  static constexpr auto Describe() {
    using A = RmsNormForwardArgs;
    return OpDescription{
        "rms_norm_forward",
        "rms_norm",
        In("x", &A::x).Rows(),
        In("addend", &A::addend).Rows().OrNone(),
        In("weight", &A::weight),
        Number("eps", &A::eps),
        Number("offset", &A::offset),
        DTypeOf(&A::y),
        Out("sum", &A::sum,
            [](const A& a) { return Result{a.x.dtype, a.x.shape, a.addend.defined}; })
            .Rows()
            .OrNone(),
        Out("y", &A::y, [](const A& a) { return Result{a.y.dtype, a.x.shape}; })
            .Rows()
            .Activation(),
        Out("rstd", &A::rstd, [](const A& a) { return F32Result({a.x.dim(0)}); }).If("keepRstd"),
    };
  }
};
void Check(const RmsNormForwardArgs&);

// With w = offset + weight, dx = g_sum + rstd·(g·w − x·rstd²·mean(g·w·x)), where x is the s of the
// forward pass. The y of the forward pass may be asked for too: it has the same bits, given the
// same eps.
struct RmsNormBackwardArgs {
  TensorView x, weight, rstd;
  TensorView g;         // of y, [n, d] act
  TensorView g_sum;     // of s by other ways than y, [n, d] of the dtype of x, or absent
  TensorView dx;        // of x and of s, [n, d] of the dtype of x
  TensorView d_addend;  // dx in the dtype of g, or absent
  float eps = 0;
  TensorView y{};  // like g, and may be g itself, or absent
  float offset = 0;

  static constexpr auto Describe() {
    using A = RmsNormBackwardArgs;
    return OpDescription{
        "rms_norm_backward",
        "rms_norm",
        In("x", &A::x).Rows(),
        In("weight", &A::weight),
        In("rstd", &A::rstd),
        In("g", &A::g).Rows(),
        In("gSum", &A::g_sum).Rows().OrNone(),
        Number("eps", &A::eps),
        Number("offset", &A::offset),
        Overwrite("y", &A::y).Rows().OrNone(),
        Out("dx", &A::dx, Like<&A::x>).Rows(),
        Out("dAddend", &A::d_addend, Like<&A::g>).Rows().If("wantAddend"),
    };
  }
};
void Check(const RmsNormBackwardArgs&);

// mean = Σ x/d, rstd = 1/√(Σ (x − mean)²/d + eps) and y = (x − mean)·rstd·weight + bias of each
// row, computed in f32, rounded once.
struct LayerNormForwardArgs {
  TensorView x;             // [n, d] act
  TensorView weight, bias;  // [d] act or f32
  float eps = 0;
  TensorView y;           // [n, d] act
  TensorView mean, rstd;  // [n] f32, or absent

  static constexpr auto Describe() {
    using A = LayerNormForwardArgs;
    return OpDescription{
        "layer_norm_forward",
        "layer_norm",
        In("x", &A::x).Rows().Activation(),
        In("weight", &A::weight),
        In("bias", &A::bias),
        Number("eps", &A::eps),
        Out("y", &A::y, Like<&A::x>).Rows(),
        Out("mean", &A::mean, [](const A& a) { return F32Result({a.x.dim(0)}); }).If("keepMean"),
        Out("rstd", &A::rstd, [](const A& a) { return F32Result({a.x.dim(0)}); }).If("keepRstd"),
    };
  }
};
void Check(const LayerNormForwardArgs&);

// With n = (x − mean)·rstd: dx = rstd·(g·weight − mean(g·weight) − n·mean(g·weight·n)).
struct LayerNormBackwardArgs {
  TensorView x, weight, mean, rstd;
  TensorView g, dx;  // [n, d] act

  static constexpr auto Describe() {
    using A = LayerNormBackwardArgs;
    return OpDescription{
        "layer_norm_backward", "layer_norm",
        In("x", &A::x).Rows(), In("weight", &A::weight),
        In("mean", &A::mean),  In("rstd", &A::rstd),
        In("g", &A::g).Rows(), Out("dx", &A::dx, Like<&A::x>).Rows(),
    };
  }
};
void Check(const LayerNormBackwardArgs&);

// Applies the half-split rotary embedding (rotate_half = [-x2, x1]) to x [b, s, heads, d], which is
// q and, where there is one, k, with tables [positions, w]. x1 and x2 are the numbers from 0 and
// from w of a head, w of each:
//   y1 = x1·cos − x2·sin,  y2 = x2·cos + x1·sin
// The d − 2w numbers behind them are copied. `inverse` rotates back, which is the gradient.
struct RopeArgs {
  TensorView q, k;       // [b, s, heads of each, d] act; k may be absent
  TensorView cos, sin;   // [positions, w] f32, w at most d/2
  TensorView positions;  // [b, s] i32, or absent: offset + index in the sequence
  int64_t offset = 0;
  bool inverse = false;
  TensorView rotated_q, rotated_k;  // may be q and k themselves

  static constexpr auto Describe() {
    using A = RopeArgs;
    return OpDescription{
        "rope",
        "rope",
        In("q", &A::q).Activation(),
        In("k", &A::k).OrNone(),
        In("cos", &A::cos),
        In("sin", &A::sin),
        In("positions", &A::positions).OrNone(),
        Whole("offset", &A::offset),
        Flag("inverse", &A::inverse),
        Out("rotatedQ", &A::rotated_q, Like<&A::q>),
        Out("rotatedK", &A::rotated_k,
            [](const A& a) { return Result{a.k.dtype, a.k.shape, a.k.defined}; })
            .OrNone(),
    };
  }
};
void Check(const RopeArgs&);

// Computes grouped-query attention with online softmax:
//   y = softmax(scale·q·kᵀ)·v
// Query i of a row sees the keys j with
//   max(begin, i − window + 1) ≤ j ≤ i
// where begin is key_begin[b, i] or 0, and a window of 0 is none. With key_end it sees in both
// directions:
//   max(begin, i − window + 1) ≤ j ≤ min(key_end[b, i], i + window, s) − 1
// Head h of q uses head
// h / (q_heads / kv_heads) of k and v. Values that are not finite may reach queries that do not see
// them (their weight is 0, and 0·∞ is NaN). The sink of a head is one more score of the softmax of
// each of its queries, which has no value (Xiao et al. 2023; learned ones are gpt-oss's).
struct AttentionForwardArgs {
  TensorView q;          // [b, s, q_heads, d] act
  TensorView k, v;       // [b, s, kv_heads, d] act
  TensorView key_begin;  // [b, s] i32, or absent
  int64_t window = 0;
  float scale = 1;
  TensorView y;  // [b, s, q_heads, d] act
  // [b, q_heads, s] f32: log Σ exp of the scaled scores, the sink among them; absent without
  // gradient
  TensorView lse;
  TensorView key_end{};  // [b, s] i32; absent: causal
  TensorView sinks{};    // [q_heads] f32, or absent

  static constexpr auto Describe() {
    using A = AttentionForwardArgs;
    return OpDescription{
        "attention_forward",
        "attention",
        In("q", &A::q).Activation(),
        In("k", &A::k),
        In("v", &A::v),
        In("keyBegin", &A::key_begin).OrNone(),
        In("sinks", &A::sinks).OrNone(),
        Options(Whole("window", &A::window), Number("scale", &A::scale)),
        Out("y", &A::y, Like<&A::q>),
        Out("lse", &A::lse,
            [](const A& a) { return F32Result({a.q.dim(0), a.q.dim(2), a.q.dim(1)}); })
            .If("keepLse"),
        In("keyEnd", &A::key_end).OrNone(),
    };
  }
};
void Check(const AttentionForwardArgs&);

// The sinks act by way of y and lse. Their own gradient is −Σ exp(sink − lse)·(g·y) over the
// queries of a head.
struct AttentionBackwardArgs {
  TensorView q, k, v, key_begin, y, lse, g;
  int64_t window = 0;
  float scale = 1;
  TensorView dq, dk, dv;
  TensorView key_end{};

  static constexpr auto Describe() {
    using A = AttentionBackwardArgs;
    return OpDescription{
        "attention_backward",
        "attention",
        In("q", &A::q),
        In("k", &A::k),
        In("v", &A::v),
        In("keyBegin", &A::key_begin).OrNone(),
        In("y", &A::y),
        In("lse", &A::lse),
        In("g", &A::g),
        Options(Whole("window", &A::window), Number("scale", &A::scale)),
        Out("dq", &A::dq, Like<&A::q>),
        Out("dk", &A::dk, Like<&A::k>),
        Out("dv", &A::dv, Like<&A::v>),
        In("keyEnd", &A::key_end).OrNone(),
    };
  }
};
void Check(const AttentionBackwardArgs&);

// y = f(gate)·up, where the kind names f: of silu, this is SwiGLU. A clamped kind changes up too
// (core/maths/kinds.h).
struct GatedForwardArgs {
  GatedKind kind;
  TensorView gate, up, y;  // same shape, act

  static constexpr auto Describe() {
    using A = GatedForwardArgs;
    return OpDescription{
        "gated_forward",
        "gated",
        Choice("kind", &A::kind, kGatedKinds),
        In("gate", &A::gate).Activation(),
        In("up", &A::up),
        Out("y", &A::y, Like<&A::gate>),
    };
  }
};
void Check(const GatedForwardArgs&);

// Gives dgate = g·up·f'(gate) and dup = g·f(gate), and y with the bits of the forward pass where it
// is asked for.
struct GatedBackwardArgs {
  GatedKind kind;
  TensorView gate, up, g, dgate, dup;
  TensorView y{};  // may be g itself, or absent

  static constexpr auto Describe() {
    using A = GatedBackwardArgs;
    return OpDescription{
        "gated_backward",
        "gated",
        Choice("kind", &A::kind, kGatedKinds),
        In("gate", &A::gate),
        In("up", &A::up),
        In("g", &A::g),
        Overwrite("y", &A::y).OrNone(),
        Out("dgate", &A::dgate, Like<&A::gate>),
        Out("dup", &A::dup, Like<&A::up>),
    };
  }
};
void Check(const GatedBackwardArgs&);

using LayerOps =
    OpList<EmbeddingArgs, EmbeddingBackwardArgs, RmsNormForwardArgs, RmsNormBackwardArgs,
           LayerNormForwardArgs, LayerNormBackwardArgs, RopeArgs, AttentionForwardArgs,
           AttentionBackwardArgs, GatedForwardArgs, GatedBackwardArgs>;

}  // namespace lora
