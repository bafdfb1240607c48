// States the rules of random numbers.
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

}  // namespace lora
