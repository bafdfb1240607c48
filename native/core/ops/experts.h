// Mixtures of experts: which experts a token has, and the linear layers that each of its rows finds
// at one of them. See ops.h for what all ops share.
//
// n tokens have k experts each: assignment a = token·k + choice. Rows of products are sorted by
// expert, so that each of them multiplies neighbors; `order` says which assignment a row is,
// `places` which row an assignment is, and expert e has rows offsets[e] … offsets[e + 1] − 1.
#pragma once

#include <cstdint>
#include <vector>

#include "core/maths/int8_activations.h"
#include "core/ops/describe.h"
#include "core/ops/linear.h"

namespace lora {

// The k largest logits of a token, the largest first, of equal ones the lower index; a NaN comes
// behind every number. Their weights are softmax over all experts, or over the k alone, which is
// the former divided by its sum.
struct RouteForwardArgs {
  TensorView logits;  // [n, experts] f32
  int64_t chosen = 0;
  bool among_chosen = false;
  TensorView weights;        // [n, k] f32
  TensorView experts;        // [n, k] i32
  TensorView order, places;  // [n·k] i32
  TensorView offsets;        // [experts + 1] i32

  // They are asked for before the arguments are checked.
  int64_t tokens() const { return logits.shape.rank() == 2 ? logits.dim(0) : 0; }
  int64_t count() const { return logits.shape.rank() == 2 ? logits.dim(1) : 0; }
  int64_t kept() const { return chosen < count() ? chosen : count(); }

  static constexpr auto Describe() {
    using A = RouteForwardArgs;
    return OpDescription{
        "route_forward",
        "route",
        In("logits", &A::logits),
        Whole("chosen", &A::chosen, 1),
        Flag("amongChosen", &A::among_chosen),
        Out("weights", &A::weights, [](const A& a) { return F32Result({a.tokens(), a.kept()}); }),
        Out("experts", &A::experts,
            [](const A& a) { return Result{DType::kI32, {a.tokens(), a.kept()}}; }),
        Out("order", &A::order,
            [](const A& a) { return Result{DType::kI32, {a.tokens() * a.kept()}}; }),
        Out("places", &A::places,
            [](const A& a) { return Result{DType::kI32, {a.tokens() * a.kept()}}; }),
        Out("offsets", &A::offsets,
            [](const A& a) { return Result{DType::kI32, {a.count() + 1}}; }),
    };
  }
};
void Check(const RouteForwardArgs&);

// With w the weights and S = Σ over the chosen of w·g:
//   d_logits[e] = w[e]·(g[e] − S) for a chosen expert; for another −w[e]·S, where the softmax is
// over all experts, else 0. An index outside of [0, experts) is no expert.
struct RouteBackwardArgs {
  TensorView logits;   // [n, experts] f32
  TensorView experts;  // [n, k] i32
  TensorView g;        // [n, k] f32
  bool among_chosen = false;
  TensorView d_logits;  // [n, experts] f32

  static constexpr auto Describe() {
    using A = RouteBackwardArgs;
    return OpDescription{
        "route_backward",
        "route",
        In("logits", &A::logits),
        In("experts", &A::experts),
        In("g", &A::g),
        Flag("amongChosen", &A::among_chosen),
        Out("dLogits", &A::d_logits, Like<&A::logits>),
    };
  }
};
void Check(const RouteBackwardArgs&);

// y[j] = weights[a]·x[a / k] with a = order[j] and k = m / n, without weights x[a / k]. A row of an
// assignment outside of [0, m) is NaN.
struct SpreadRowsArgs {
  TensorView x;        // [n, d] act
  TensorView order;    // [m] i32
  TensorView weights;  // [m] f32, by assignment, or absent
  TensorView y;        // [m, d] act

  static constexpr auto Describe() {
    using A = SpreadRowsArgs;
    return OpDescription{
        "spread_rows",
        "spread_rows",
        In("x", &A::x).Rows().Activation(),
        In("order", &A::order).Flat(),
        In("weights", &A::weights).Flat().OrNone(),
        Out("y", &A::y,
            [](const A& a) {
              if (a.x.shape.rank() != 2 || a.order.shape.rank() != 1) return Result{a.x.dtype, {0}};
              return Result{a.x.dtype, {a.order.dim(0), a.x.dim(1)}};
            }),
    };
  }
};
void Check(const SpreadRowsArgs&);

// y[t] = Σ over the choices c of weights[a]·x[places[a]], a = t·k + c, in their order, computed in
// f32 and rounded once; without weights Σ x[places[a]]. A token with a place outside of [0, m) is
// NaN.
struct CombineRowsArgs {
  TensorView x;        // [m, d] act
  TensorView places;   // [m] i32
  TensorView weights;  // [m] f32, by assignment, or absent
  int64_t chosen = 0;  // k
  TensorView y;        // [m / k, d] act

  static constexpr auto Describe() {
    using A = CombineRowsArgs;
    return OpDescription{
        "combine_rows",
        "combine_rows",
        In("x", &A::x).Activation(),
        In("places", &A::places).Flat(),
        In("weights", &A::weights).Flat().OrNone(),
        Whole("chosen", &A::chosen, 1),
        Out("y", &A::y,
            [](const A& a) {
              if (a.x.shape.rank() != 2) return Result{a.x.dtype, {0}};
              return Result{a.x.dtype, {a.x.dim(0) / a.chosen, a.x.dim(1)}};
            }),
    };
  }
};
void Check(const CombineRowsArgs&);

// The gradient of the weights of combine_rows: dots[a] = g[a / k]·x[places[a]], k = m / n.
struct RowDotsArgs {
  TensorView g;       // [n, d] act
  TensorView x;       // [m, d] act
  TensorView places;  // [m] i32
  TensorView dots;    // [m] f32

  static constexpr auto Describe() {
    using A = RowDotsArgs;
    return OpDescription{
        "row_dots",
        "row_dots",
        In("g", &A::g).Rows(),
        In("x", &A::x),
        In("places", &A::places).Flat(),
        Out("dots", &A::dots,
            [](const A& a) {
              return F32Result({a.x.shape.rank() == 2 ? a.x.dim(0) : int64_t{0}});
            }),
    };
  }
};
void Check(const RowDotsArgs&);

// The matrix of one expert.
struct Expert {
  PackedView weight;  // [out, in], act
  TensorView bias;    // [out] act or f32, or absent
  Activations activations = Activations::kExact;

  static constexpr auto Describe() {
    using E = Expert;
    return PartDescription{
        Weight("weight", &E::weight),
        In("bias", &E::bias).OrNone(),
        Choice("activations", &E::activations, kActivationNames),
    };
  }
};

// Row j of expert e: y = W_e·x + scale·up_e·h + bias_e, h = down_e·x: a lora_linear of the rows of
// each expert, with its bits. Experts without rows are not read. Offsets that do not rise from 0 to
// the rows of x are ERR_DATA.
struct RoutedLinearForwardArgs {
  TensorView x;        // [m, in] act
  TensorView offsets;  // [experts + 1] i32
  std::vector<Expert> experts;
  TensorView up;    // [experts, out, r] f32, or absent
  TensorView down;  // [experts, r, in] f32, or absent
  float scale = 1;
  LinearPhase phase = LinearPhase::kAuto;
  TensorView y;  // [m, out] act
  TensorView h;  // [m, r] f32, or absent

  static constexpr auto Describe() {
    using A = RoutedLinearForwardArgs;
    return OpDescription{
        "routed_linear_forward",
        "routed_linear",
        In("x", &A::x).Activation(),
        In("offsets", &A::offsets),
        Each("experts", "expert", &A::experts),
        In("up", &A::up).OrNone(),
        In("down", &A::down).OrNone(),
        Number("scale", &A::scale),
        Choice("phase", &A::phase, kLinearPhases),
        Out("y", &A::y,
            [](const A& a) {
              if (a.x.shape.rank() != 2 || a.experts.empty()) return Result{a.x.dtype, {0}};
              return Result{a.x.dtype, {a.x.dim(0), a.experts[0].weight.rows}};
            }),
        Out("h", &A::h,
            [](const A& a) {
              if (a.x.shape.rank() != 2 || a.up.shape.rank() != 3) return NoResult();
              return F32Result({a.x.dim(0), a.up.dim(2)});
            })
            .If("keepH"),
    };
  }
};
void Check(const RoutedLinearForwardArgs&);

// The gradients of the same, as lora_linear's: of the up and down of an expert without rows zeros.
struct RoutedLinearBackwardArgs {
  TensorView x;        // [m, in] act; absent when no d_down is wanted
  TensorView offsets;  // [experts + 1] i32
  std::vector<Expert> experts;
  TensorView up, down;
  float scale = 1;
  TensorView g;       // [m, out] act
  TensorView h;       // [m, r] f32; absent when no d_up is wanted
  TensorView dx;      // [m, in] act, or absent
  TensorView d_up;    // [experts, out, r] f32, or absent
  TensorView d_down;  // [experts, r, in] f32, or absent

  static constexpr auto Describe() {
    using A = RoutedLinearBackwardArgs;
    return OpDescription{
        "routed_linear_backward",
        "routed_linear",
        In("x", &A::x).OrNone(),
        In("offsets", &A::offsets),
        Each("experts", "expert", &A::experts),
        In("up", &A::up).OrNone(),
        In("down", &A::down).OrNone(),
        Number("scale", &A::scale),
        In("g", &A::g),
        In("h", &A::h).OrNone(),
        Out("dx", &A::dx,
            [](const A& a) {
              if (a.g.shape.rank() != 2 || a.experts.empty()) return NoResult();
              return Result{a.g.dtype, {a.g.dim(0), a.experts[0].weight.cols}};
            })
            .If("wantDx"),
        Out("dUp", &A::d_up, [](const A& a) { return F32Result(a.up.shape); }).If("wantUp"),
        Out("dDown", &A::d_down, [](const A& a) { return F32Result(a.down.shape); }).If("wantDown"),
    };
  }
};
void Check(const RoutedLinearBackwardArgs&);

// dw[e] = Σ over the rows of expert e of g ⊗ x, zeros for one without rows.
struct RoutedWeightsArgs {
  TensorView x;        // [m, in] act
  TensorView offsets;  // [experts + 1] i32
  TensorView g;        // [m, out] act
  TensorView dw;       // [experts, out, in] f32

  static constexpr auto Describe() {
    using A = RoutedWeightsArgs;
    return OpDescription{
        "routed_weights",
        "routed_linear",
        In("x", &A::x),
        In("offsets", &A::offsets),
        In("g", &A::g),
        Out("dw", &A::dw,
            [](const A& a) {
              if (a.x.shape.rank() != 2 || a.g.shape.rank() != 2 || a.offsets.shape.rank() != 1)
                return F32Result({0});
              return F32Result({a.offsets.dim(0) - 1, a.g.dim(1), a.x.dim(1)});
            }),
    };
  }
};
void Check(const RoutedWeightsArgs&);

// Throws ERR_DATA unless offsets rise from 0 to `rows`.
void CheckOffsets(const int32_t* offsets, int64_t experts, int64_t rows);

using ExpertOps =
    OpList<RouteForwardArgs, RouteBackwardArgs, SpreadRowsArgs, CombineRowsArgs, RowDotsArgs,
           RoutedLinearForwardArgs, RoutedLinearBackwardArgs, RoutedWeightsArgs>;

}  // namespace lora
