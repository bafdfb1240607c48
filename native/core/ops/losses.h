// Describes the losses. See ops.h for what all ops share.
#pragma once

#include "core/ops/describe.h"

namespace lora {

// A label of −100 does not count; any other label outside [0, vocab) fails with ERR_DATA, and so
// does a call without a label that counts, unless it asks for the losses of rows.
//   losses [n] f32 = −log softmax(logits)[label],  loss [1] f32 = their sum
//   count [1] f32 = the number of labels that count
//   entropies [n] f32 = −Σ softmax·log softmax
// losses and entropies are 0 in rows that do not count.
struct CrossEntropyForwardArgs {
  TensorView logits;  // [n, vocab] act or f32
  TensorView labels;  // [n] i32
  TensorView loss, count;
  TensorView lse;                // [n] f32, or absent
  TensorView losses, entropies;  // [n] f32, or absent

  static constexpr auto Describe() {
    using A = CrossEntropyForwardArgs;
    return OpDescription{
        "cross_entropy_forward",
        "cross_entropy",
        In("logits", &A::logits).Rows(),
        In("labels", &A::labels).Flat(),
        OutScalar("loss", &A::loss),
        OutScalar("count", &A::count),
        Out("lse", &A::lse, [](const A& a) { return F32Result({a.logits.dim(0)}); }).If("keepLse"),
        Out("losses", &A::losses, [](const A& a) { return F32Result({a.labels.dim(0)}); })
            .If("wantLosses"),
        Out("entropies", &A::entropies, [](const A& a) { return F32Result({a.labels.dim(0)}); })
            .If("wantEntropies"),
    };
  }
};
void Check(const CrossEntropyForwardArgs&);

struct CrossEntropyBackwardArgs {  // dlogits = (softmax(logits) − onehot)·g, 0 where label is −100
  TensorView logits, labels, lse;
  TensorView g;  // [1] f32: gradient of the summed loss, or [n]: of each row's
  TensorView dlogits;

  static constexpr auto Describe() {
    using A = CrossEntropyBackwardArgs;
    return OpDescription{
        "cross_entropy_backward",
        "cross_entropy",
        In("logits", &A::logits).Rows(),
        In("labels", &A::labels).Flat(),
        In("lse", &A::lse),
        In("g", &A::g).Flat(),
        Out("dlogits", &A::dlogits, Like<&A::logits>).Rows(),
    };
  }
};
void Check(const CrossEntropyBackwardArgs&);

// Computes the same of logits = scale·hidden·Wᵀ, with a cap scale·cap·tanh(hidden·Wᵀ/cap). Rows are
// processed in chunks, so that the logits are never held whole.
struct LinearCrossEntropyArgs {
  TensorView hidden;       // [n, dim] act
  PackedView weight;       // [vocab, dim]
  TensorView labels;       // [n] i32
  TensorView loss, count;  // [1] f32 each
  TensorView
      d_hidden;  // [n, dim] f32: of each row's loss, for an upstream gradient of 1, or absent
  TensorView losses, entropies;  // [n] f32, or absent
  float scale = 1;               // 1 / temperature
  float cap = 0;                 // 0: none

  static constexpr auto Describe() {
    using A = LinearCrossEntropyArgs;
    return OpDescription{
        "linear_cross_entropy",
        "linear_cross_entropy",
        In("hidden", &A::hidden).Rows(),
        Weight("weight", &A::weight),
        In("labels", &A::labels).Flat(),
        Number("scale", &A::scale),
        Number("cap", &A::cap),
        OutScalar("loss", &A::loss),
        OutScalar("count", &A::count),
        Out("d_hidden", &A::d_hidden, [](const A& a) { return F32Result(a.hidden.shape); })
            .Rows()
            .If("wantGrad"),
        Out("losses", &A::losses, [](const A& a) { return F32Result({a.labels.dim(0)}); })
            .If("wantLosses"),
        Out("entropies", &A::entropies, [](const A& a) { return F32Result({a.labels.dim(0)}); })
            .If("wantEntropies"),
    };
  }
};
void Check(const LinearCrossEntropyArgs&);

using LossOps = OpList<CrossEntropyForwardArgs, CrossEntropyBackwardArgs, LinearCrossEntropyArgs>;

}  // namespace lora
