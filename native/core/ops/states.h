// Describes the ops that mix the tokens of a text by a state of a fixed size. See ops.h for what
// all ops share.
//
// For training an op takes whole texts: with key_begin, i32 [b, s], the text of a token begins at
// position key_begin[b, i], and what lies before it does not exist, whatever it holds.
//
// For inference it takes the tokens behind others. Sequence b has row slots[b] of a pool of states
// [slots, …] in f32, and lengths[b] positions, those of the call included: of s positions in a
// call, i is at position lengths[b] − s + i. Where the first of them is 0, the row may hold
// anything. Afterwards the row is the state behind the last position. Slots and lengths are data,
// which is read when an op runs; one out of range fails the op with ERR_DATA before it writes
// anything. No two sequences of a call may have one slot.
#pragma once

#include <cstdint>

#include "core/ops/describe.h"

namespace lora {

enum class ShortConvKind : uint8_t {
  kGated,  // x is [B | C | v]: u = B·v and y = C·conv(u)
  kSilu,   // u = x and y = silu(conv(u))
};
inline constexpr const char* kShortConvKinds[] = {"gated", "silu"};

// How many taps a convolution has at most: kernels keep them in registers.
constexpr int64_t kMaxTaps = 8;

// A convolution of each channel along the sequence, with k taps of which the last is that of the
// token itself:
//   conv(u)[t] = bias + Σ weight[:, k − 1 − j]·u[t − j] over the j < k with t − j ≥ begin
// where begin is key_begin[b, t] or 0. u is not rounded to the dtype of x.
struct ShortConvForwardArgs {
  ShortConvKind kind = ShortConvKind::kGated;
  TensorView x;          // [b, s, 3c] for kGated, else [b, s, c], act
  TensorView weight;     // [c, k] act or f32
  TensorView bias;       // [c] act or f32, or absent
  TensorView key_begin;  // [b, s] i32, or absent
  TensorView y;          // [b, s, c] act

  static constexpr auto Describe() {
    using A = ShortConvForwardArgs;
    return OpDescription{
        "short_conv_forward",
        "short_conv",
        Choice("kind", &A::kind, kShortConvKinds),
        In("x", &A::x).Activation(),
        In("weight", &A::weight),
        In("bias", &A::bias).OrNone(),
        In("keyBegin", &A::key_begin).OrNone(),
        Out("y", &A::y,
            [](const A& a) {
              return Result{a.x.dtype, {a.x.dim(0), a.x.dim(1), a.weight.dim(0)}};
            }),
    };
  }
};
void Check(const ShortConvForwardArgs&);

// The gradients of all operands, those of weight and bias as sums over all tokens.
struct ShortConvBackwardArgs {
  ShortConvKind kind = ShortConvKind::kGated;
  TensorView x, weight, bias, key_begin;
  TensorView g;        // of y, [b, s, c] act
  TensorView dx;       // like x, or absent
  TensorView dweight;  // [c, k] f32, or absent
  TensorView dbias;    // [c] f32, or absent

  static constexpr auto Describe() {
    using A = ShortConvBackwardArgs;
    return OpDescription{
        "short_conv_backward",
        "short_conv",
        Choice("kind", &A::kind, kShortConvKinds),
        In("x", &A::x),
        In("weight", &A::weight),
        In("bias", &A::bias).OrNone(),
        In("keyBegin", &A::key_begin).OrNone(),
        In("g", &A::g),
        Out("dx", &A::dx, Like<&A::x>).If("wantDx"),
        Out("dweight", &A::dweight, [](const A& a) { return F32Result(a.weight.shape); })
            .If("wantWeight"),
        Out("dbias", &A::dbias, [](const A& a) { return F32Result({a.weight.dim(0)}); })
            .If("wantBias"),
    };
  }
};
void Check(const ShortConvBackwardArgs&);

// The same for the tokens behind others, without a gradient, where begin is 0. A state is the u of
// the last k − 1 positions, zeros for those before the text. The bits of a token do not depend on
// where its text is cut into calls.
struct ShortConvAppendArgs {
  ShortConvKind kind = ShortConvKind::kGated;
  TensorView x;        // as in ShortConvForwardArgs
  TensorView weight;   // [c, k] act or f32
  TensorView bias;     // [c] act or f32, or absent
  TensorView pool;     // [slots, k − 1, c] f32
  TensorView slots;    // [b] i32
  TensorView lengths;  // [b] i32
  TensorView y;        // [b, s, c] act

  static constexpr auto Describe() {
    using A = ShortConvAppendArgs;
    return OpDescription{
        "short_conv_append",
        "short_conv_append",
        Choice("kind", &A::kind, kShortConvKinds),
        In("x", &A::x).Activation(),
        In("weight", &A::weight),
        In("bias", &A::bias).OrNone(),
        // A call that failed leaves a state that is not that of its tokens.
        InOut("pool", &A::pool),
        In("slots", &A::slots),
        In("lengths", &A::lengths),
        Out("y", &A::y,
            [](const A& a) {
              return Result{a.x.dtype, {a.x.dim(0), a.x.dim(1), a.weight.dim(0)}};
            }),
    };
  }
};
void Check(const ShortConvAppendArgs&);

using StateOps = OpList<ShortConvForwardArgs, ShortConvBackwardArgs, ShortConvAppendArgs>;

// ---- for the backends --------------------------------------------------------------------------

// Checks slots [b] and lengths [b], in host memory, of calls of `count` positions on a pool of
// `pool_slots` rows. A call of no position uses none of them.
void CheckSlots(const char* op, const TensorView& slots, const TensorView& lengths,
                int64_t pool_slots, int64_t count);

}  // namespace lora
