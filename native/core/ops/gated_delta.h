// Describes the gated delta rule (Yang et al., "Gated Delta Networks", 2024), a linear attention
// whose state is a matrix per head. See ops.h for what all ops share.
#pragma once

#include <cstdint>

#include "core/ops/describe.h"
#include "core/ops/pages.h"
#include "core/ops/states.h"

namespace lora {

// With q' = q/√(Σ q² + eps), k' = k/√(Σ k² + eps), and S [dk, dv] of each head, which begins as
// zeros, for each token:
//   S' = e^g·S,  u = β·(v − S'ᵀ·k'),  S = S' + k'·uᵀ,  y = scale·Sᵀ·q'
// Head h of v, g, beta and y uses head h / (v_heads / k_heads) of q and k. A token whose key_begin
// is its own position begins a text: nothing before it exists. All is computed in f32.
//
// Backends may compute 64 tokens at once as products of matrices (Yang et al., "Parallelizing
// Linear Transformers with the Delta Rule over Sequence Length", 2024). Where values are not
// finite, they may then reach other texts of the same 64 tokens.
struct GatedDeltaForwardArgs {
  TensorView q, k;       // [b, s, k_heads, dk] act
  TensorView v;          // [b, s, v_heads, dv] act
  TensorView g, beta;    // [b, s, v_heads] f32
  TensorView key_begin;  // [b, s] i32, or absent
  float scale = 1, eps = 0;
  TensorView y;  // [b, s, v_heads, dv] act

  static constexpr auto Describe() {
    using A = GatedDeltaForwardArgs;
    return OpDescription{
        "gated_delta_forward",
        "gated_delta",
        In("q", &A::q).Activation(),
        In("k", &A::k),
        In("v", &A::v),
        In("g", &A::g),
        In("beta", &A::beta),
        In("keyBegin", &A::key_begin).OrNone(),
        Options(Number("scale", &A::scale), Number("eps", &A::eps)),
        Out("y", &A::y, Like<&A::v>),
    };
  }
};
void Check(const GatedDeltaForwardArgs&);

// The states are computed once more, so that a forward pass keeps its operands alone.
struct GatedDeltaBackwardArgs {
  TensorView q, k, v, g, beta, key_begin;
  TensorView dy;  // like v
  float scale = 1, eps = 0;
  TensorView dq, dk, dv, dg, dbeta;

  static constexpr auto Describe() {
    using A = GatedDeltaBackwardArgs;
    return OpDescription{
        "gated_delta_backward",
        "gated_delta",
        In("q", &A::q),
        In("k", &A::k),
        In("v", &A::v),
        In("g", &A::g),
        In("beta", &A::beta),
        In("keyBegin", &A::key_begin).OrNone(),
        In("dy", &A::dy),
        Options(Number("scale", &A::scale), Number("eps", &A::eps)),
        Out("dq", &A::dq, Like<&A::q>),
        Out("dk", &A::dk, Like<&A::k>),
        Out("dv", &A::dv, Like<&A::v>),
        Out("dg", &A::dg, Like<&A::g>),
        Out("dbeta", &A::dbeta, Like<&A::beta>),
    };
  }
};
void Check(const GatedDeltaBackwardArgs&);

// The same without a gradient for the tokens behind others (states.h). A state is S, and the phase
// chooses the kernel. On the CPU the bits of a sequence follow from its own tokens alone, in phase
// "prefill" wherever it is cut at multiples of 64 positions.
struct GatedDeltaAppendArgs {
  TensorView q, k, v, g, beta;
  TensorView pool;            // [slots, v_heads, dk, dv] f32
  TensorView slots, lengths;  // [b] i32
  float scale = 1, eps = 0;
  AttentionPhase phase = AttentionPhase::kPrefill;
  TensorView y;  // like v

  static constexpr auto Describe() {
    using A = GatedDeltaAppendArgs;
    return OpDescription{
        "gated_delta_append",
        "gated_delta_append",
        In("q", &A::q).Activation(),
        In("k", &A::k),
        In("v", &A::v),
        In("g", &A::g),
        In("beta", &A::beta),
        // A call that failed leaves a state that lacks its tokens: so it fails the pool.
        InOut("pool", &A::pool),
        In("slots", &A::slots),
        In("lengths", &A::lengths),
        Options(Number("scale", &A::scale), Number("eps", &A::eps),
                Choice("phase", &A::phase, kAttentionPhases)),
        Out("y", &A::y, Like<&A::v>),
    };
  }
};
void Check(const GatedDeltaAppendArgs&);

using GatedDeltaOps = OpList<GatedDeltaForwardArgs, GatedDeltaBackwardArgs, GatedDeltaAppendArgs>;

// ---- for the backends --------------------------------------------------------------------------

// Tokens that backends compute as products of matrices.
constexpr int64_t kDeltaChunk = 64;

// What forward, backward and step have in common, of which the absent parts stay undefined.
struct DeltaOperands {
  TensorView q, k, v, g, beta;
  float scale, eps;
  int64_t batch, tokens, k_heads, v_heads, group, dk, dv;

  template <class Args>
  explicit DeltaOperands(const Args& a)
      : q(a.q),
        k(a.k),
        v(a.v),
        g(a.g),
        beta(a.beta),
        scale(a.scale),
        eps(a.eps),
        batch(a.q.dim(0)),
        tokens(a.q.dim(1)),
        k_heads(a.q.dim(2)),
        v_heads(a.v.dim(2)),
        group(k_heads == 0 ? 0 : v_heads / k_heads),
        dk(a.q.dim(3)),
        dv(a.v.dim(3)) {}

  // Elements before a token's head.
  int64_t AtKey(int64_t b, int64_t t, int64_t head) const {
    return ((b * tokens + t) * k_heads + head) * dk;
  }
  int64_t AtValue(int64_t b, int64_t t, int64_t head) const { return AtGate(b, t, head) * dv; }
  int64_t AtGate(int64_t b, int64_t t, int64_t head) const {
    return (b * tokens + t) * v_heads + head;
  }
};

// Whether token t of row b begins a text.
inline bool BeginsText(const TensorView& key_begin, int64_t b, int64_t t) {
  return t == 0 || (key_begin && key_begin.as<const int32_t>()[b * key_begin.dim(1) + t] >= t);
}

}  // namespace lora
