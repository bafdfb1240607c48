// States the rules of the optimizer's ops.
#include "core/ops/optimizer.h"

#include "core/ops/rules.h"

namespace lora {

using check::Rules;

namespace {

// Demands a parameter of f32, or of bf16 with the counters of its rounding.
template <class Segment>
void CheckParam(const Rules& rules, const Segment& segment) {
  rules.Type("param", segment.param, {DType::kF32, DType::kBF16, DType::kF64});
  LORA_CHECK(segment.param.dtype != DType::kBF16 || segment.rounding.step > 0, rules.op(),
             "expected the rounding of a param of bf16 but received none");
}

// Demands such a parameter and f32 tensors of its size, whatever the state of the optimizer is.
template <class Segment>
void CheckSegments(const Rules& rules, const std::vector<Segment>& segments) {
  for (const Segment& segment : segments) {
    CheckParam(rules, segment);
    ForEachField<Segment>([&](const auto& field) {
      if constexpr (requires { field.view; }) {
        const TensorView& view = segment.*field.view;
        if (&view == &segment.param || (field.optional && !view)) return;
        rules.Float32(field.name, view);
        LORA_CHECK(view.numel() == segment.param.numel(), rules.op(), "expected ", field.name,
                   " of ", segment.param.numel(), " elements (those of param) but received ",
                   view.numel());
      }
    });
  }
}

void CheckNotNegative(const Rules& rules, const char* name, double value) {
  LORA_CHECK(std::isfinite(value) && value >= 0, rules.op(), "expected ", name,
             " of 0 or more but received ", value);
}
// How slowly an average moves.
void CheckShare(const Rules& rules, const char* name, double value) {
  LORA_CHECK(value >= 0 && value < 1, rules.op(), "expected ", name, " in [0, 1) but received ",
             value);
}

template <class Args>
void CheckAdamW(const Rules& rules, const Args& args) {
  CheckShare(rules, "beta1", args.beta1);
  CheckShare(rules, "beta2", args.beta2);
  CheckNotNegative(rules, "lr", args.lr);
  CheckNotNegative(rules, "eps", args.eps);
  CheckNotNegative(rules, "weightDecay", args.weight_decay);
  LORA_CHECK(args.step >= 1, rules.op(), "expected step of 1 or more but received ", args.step);
}

template <class Args>
AdamWFactors AdamWFactorsOf(const Args& args) {
  const double steps = static_cast<double>(args.step);
  AdamWFactors factors;
  factors.decay = static_cast<float>(1 - args.lr * args.weight_decay);
  factors.beta1 = static_cast<float>(args.beta1);
  factors.new1 = static_cast<float>(1 - args.beta1);
  factors.beta2 = static_cast<float>(args.beta2);
  factors.new2 = static_cast<float>(1 - args.beta2);
  factors.rsqrt_correction2 = static_cast<float>(1 / std::sqrt(1 - std::pow(args.beta2, steps)));
  factors.eps = static_cast<float>(args.eps);
  factors.step_size = static_cast<float>(args.lr / (1 - std::pow(args.beta1, steps)));
  return factors;
}

}  // namespace

void Check(const AdamWArgs& args) {
  const Rules rules(LabelOf(args));
  CheckSegments(rules, args.segments);
  CheckAdamW(rules, args);
}

AdamWFactors FactorsOf(const AdamWArgs& args) { return AdamWFactorsOf(args); }

void Check(const AdamW8bitArgs& args) {
  const Rules rules(LabelOf(args));
  for (const AdamW8bitSegment& segment : args.segments) {
    CheckParam(rules, segment);
    rules.Float32("grad", segment.grad);
    LORA_CHECK(segment.grad.numel() == segment.param.numel(), rules.op(), "expected grad of ",
               segment.param.numel(), " elements (those of param) but received ",
               segment.grad.numel());
    const auto codes = [&](const char* name, const TensorView& view) {
      rules.Int32(name, view);
      const int64_t words = segment.blocks() * (kDynamicBlock / 4);
      LORA_CHECK(view.numel() == words, rules.op(), "expected ", name, " of ", words,
                 " elements (64 for each 256 of param) but received ", view.numel());
    };
    const auto scales = [&](const char* name, const TensorView& view) {
      rules.Type(name, view, {DType::kF32});
      LORA_CHECK(view.numel() == segment.blocks(), rules.op(), "expected ", name, " of ",
                 segment.blocks(), " elements (one for each 256 of param) but received ",
                 view.numel());
    };
    codes("mCodes", segment.m_codes);
    codes("vCodes", segment.v_codes);
    scales("mScales", segment.m_scales);
    scales("vScales", segment.v_scales);
  }
  CheckAdamW(rules, args);
}

AdamWFactors FactorsOf(const AdamW8bitArgs& args) { return AdamWFactorsOf(args); }

void Check(const SgdArgs& args) {
  const Rules rules(LabelOf(args));
  CheckSegments(rules, args.segments);
  for (const auto& segment : args.segments) {
    LORA_CHECK(segment.velocity.defined == args.has_velocity(), rules.op(),
               "expected a velocity of every parameter, or of none");
  }
  CheckNotNegative(rules, "lr", args.lr);
  CheckShare(rules, "momentum", args.momentum);
  CheckNotNegative(rules, "weightDecay", args.weight_decay);
  LORA_CHECK(args.segments.empty() || args.momentum == 0 || args.has_velocity(), rules.op(),
             "expected a velocity, since momentum is ", args.momentum);
}

SgdFactors FactorsOf(const SgdArgs& args) {
  return {static_cast<float>(args.lr), static_cast<float>(args.momentum),
          static_cast<float>(args.weight_decay), args.nesterov ? 1u : 0u};
}

void Check(const LionArgs& args) {
  const Rules rules(LabelOf(args));
  CheckSegments(rules, args.segments);
  CheckNotNegative(rules, "lr", args.lr);
  CheckShare(rules, "beta1", args.beta1);
  CheckShare(rules, "beta2", args.beta2);
  CheckNotNegative(rules, "weightDecay", args.weight_decay);
}

LionFactors FactorsOf(const LionArgs& args) {
  return {static_cast<float>(args.lr),    static_cast<float>(1 - args.lr * args.weight_decay),
          static_cast<float>(args.beta1), static_cast<float>(1 - args.beta1),
          static_cast<float>(args.beta2), static_cast<float>(1 - args.beta2)};
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
