// States the rules of random numbers and of sampling.
#include "core/ops/random.h"

#include "core/ops/rules.h"

namespace lora {

using check::Rules;

void Check(const RandomArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Float32("y", args.y);
  rules.Finite(args.kind == RandomKind::kUniform ? "lo" : "mean", args.lo);
  rules.Finite(args.kind == RandomKind::kUniform ? "hi" : "std", args.hi);
}

void Check(const SampleArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Rank("logits", args.logits, 2, "(rows, vocab)");
  rules.InferenceAct("logits", args.logits);
  LORA_CHECK(args.logits.dim(1) > 0, rules.op(),
             "expected logits of at least one token but received ", args.logits.shape);
  LORA_CHECK(std::isfinite(args.temperature) && args.temperature >= 0, rules.op(),
             "expected temperature of 0 (greedy) or more but received ", args.temperature);
  LORA_CHECK(args.top_k >= 0, rules.op(), "expected topK of 0 (all) or more but received ",
             args.top_k);
  LORA_CHECK(args.top_p > 0 && args.top_p <= 1, rules.op(), "expected topP in (0, 1] but received ",
             args.top_p);
  rules.Int32("ids", args.ids);
  rules.ShapeIs("ids", args.ids, {args.logits.dim(0)}, "(rows)");
}

}  // namespace lora
