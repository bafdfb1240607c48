// States the rules of the optimizer's ops.
#include "core/ops/optimizer.h"

#include "core/ops/rules.h"

namespace lora {

using check::Rules;

void Check(const AdamWArgs& args) {
  const Rules rules(LabelOf(args));
  for (const auto& segment : args.segments) {
    rules.Float32("param", segment.param);
    const auto same = [&](const char* name, const TensorView& view) {
      rules.Float32(name, view);
      LORA_CHECK(view.numel() == segment.param.numel(), rules.op(), "expected ", name, " of ",
                 segment.param.numel(), " elements (those of param) but received ", view.numel());
    };
    same("grad", segment.grad);
    same("m", segment.m);
    same("v", segment.v);
  }
  const auto in = [&](const char* name, double value, double below) {
    LORA_CHECK(value >= 0 && value < below, rules.op(), "expected ", name, " in [0, ", below,
               ") but received ", value);
  };
  in("beta1", args.beta1, 1);
  in("beta2", args.beta2, 1);
  const auto not_negative = [&](const char* name, double value) {
    LORA_CHECK(std::isfinite(value) && value >= 0, rules.op(), "expected ", name,
               " of 0 or more but received ", value);
  };
  not_negative("lr", args.lr);
  not_negative("eps", args.eps);
  not_negative("weightDecay", args.weight_decay);
  LORA_CHECK(args.step >= 1, rules.op(), "expected step of 1 or more but received ", args.step);
}

void Check(const GlobalNormArgs& args) {
  const Rules rules(LabelOf(args));
  for (const TensorView& tensor : args.tensors) rules.Float32("tensor", tensor);
  rules.OneFloat32("norm", args.norm);
}

void Check(const ClipByNormArgs& args) {
  const Rules rules(LabelOf(args));
  for (const TensorView& tensor : args.tensors) rules.Float32("tensor", tensor);
  rules.OneFloat32("norm", args.norm);
  LORA_CHECK(args.max_norm >= 0, rules.op(), "expected maxNorm of 0 or more but received ",
             args.max_norm);
}

}  // namespace lora
