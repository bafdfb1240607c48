// States the rules of the losses.
#include "core/ops/losses.h"

#include <cmath>

#include "core/ops/rules.h"

namespace lora {
namespace {

using check::Rules;

void CheckLabels(const Rules& rules, const TensorView& labels, int64_t n) {
  rules.Int32("labels", labels);
  rules.ShapeIs("labels", labels, {n}, "(one per row)");
}

template <class Args>
void CheckRowValues(const Rules& rules, const Args& args, int64_t n) {
  const auto check = [&](const char* name, const TensorView& values) {
    if (!values) return;
    rules.ShapeIs(name, values, {n}, "(rows)");
    rules.Float32(name, values);
  };
  check("losses", args.losses);
  check("entropies", args.entropies);
}

}  // namespace

void Check(const CrossEntropyForwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Rank("logits", args.logits, 2, "(rows, vocab)");
  rules.Act("logits", args.logits);
  CheckLabels(rules, args.labels, args.logits.dim(0));
  rules.OneFloat32("loss", args.loss);
  rules.OneFloat32("count", args.count);
  CheckRowValues(rules, args, args.logits.dim(0));
  if (!args.lse) return;
  rules.ShapeIs("lse", args.lse, {args.logits.dim(0)}, "(rows)");
  rules.Float32("lse", args.lse);
}

void Check(const CrossEntropyBackwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Rank("logits", args.logits, 2, "(rows, vocab)");
  rules.Act("logits", args.logits);
  CheckLabels(rules, args.labels, args.logits.dim(0));
  rules.ShapeIs("lse", args.lse, {args.logits.dim(0)}, "(rows)");
  rules.Float32("lse", args.lse);
  rules.Float32("g", args.g);
  if (args.g.numel() != 1)
    rules.ShapeIs("g", args.g, {args.logits.dim(0)}, "(one per row, or one for all)");
  rules.ShapeIs("dlogits", args.dlogits, args.logits.shape, "(rows, vocab)");
  rules.SameType("dlogits", args.dlogits, "logits", args.logits.dtype);
}

void Check(const LinearCrossEntropyArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Rank("hidden", args.hidden, 2, "(rows, dim)");
  rules.Act("hidden", args.hidden);
  rules.Weight("weight", args.weight, args.hidden.dtype, "hidden", args.hidden.dim(1));
  CheckLabels(rules, args.labels, args.hidden.dim(0));
  rules.OneFloat32("loss", args.loss);
  rules.OneFloat32("count", args.count);
  CheckRowValues(rules, args, args.hidden.dim(0));
  LORA_CHECK(args.cap >= 0 && std::isfinite(args.cap), rules.op(),
             "expected cap to be a number that is not negative but received ", args.cap);
  if (!args.d_hidden) return;
  rules.ShapeIs("d_hidden", args.d_hidden, args.hidden.shape, "(rows, dim)");
  rules.Float32("d_hidden", args.d_hidden);
}

}  // namespace lora
