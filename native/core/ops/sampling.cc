// States the rules of the ops around the drawing of tokens.
#include "core/ops/sampling.h"

#include <limits>

#include "core/maths/ceil_div.h"
#include "core/maths/sampling.h"
#include "core/ops/rules.h"

namespace lora {

using check::Rules;

namespace {

void RequireLogits(const Rules& rules, const TensorView& logits) {
  rules.Rank("logits", logits, 2, "(rows, vocab)");
  rules.InferenceAct("logits", logits);
  LORA_CHECK(logits.dim(1) > 0, rules.op(), "expected logits of at least one token but received ",
             logits.shape);
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  LORA_CHECK(logits.dim(1) <= kMax, rules.op(), "expected logits of at most ", kMax,
             " tokens but received ", logits.shape);
}

}  // namespace

void Check(const SampleArgs& args) {
  const Rules rules(LabelOf(args));
  RequireLogits(rules, args.logits);
  const int64_t rows = args.logits.dim(0);
  rules.Type("reals", args.reals, {DType::kF32});
  rules.ShapeIs("reals", args.reals, {rows, kSampleReals}, "(rows, temperature topP minP)");
  rules.Int32("wholes", args.wholes);
  rules.ShapeIs("wholes", args.wholes, {rows, kSampleWholes}, "(rows, topK step seed seed)");
  rules.Int32("ids", args.ids);
  rules.ShapeIs("ids", args.ids, {rows}, "(rows)");
}

void Check(const AdjustLogitsArgs& args) {
  const Rules rules(LabelOf(args));
  RequireLogits(rules, args.logits);
  rules.Rank("rows", args.rows, 1, "(entries)");
  rules.Int32("rows", args.rows);
  const int64_t entries = args.rows.dim(0);
  rules.Int32("ids", args.ids);
  rules.ShapeIs("ids", args.ids, {entries}, "(entries)");
  rules.Type("factors", args.factors, {DType::kF32});
  rules.ShapeIs("factors", args.factors, {entries}, "(entries)");
  rules.Type("addends", args.addends, {DType::kF32});
  rules.ShapeIs("addends", args.addends, {entries}, "(entries)");
}

void RequireEntries(const AdjustLogitsArgs& args) {
  const auto require = [](const char* name, const TensorView& of, int64_t limit) {
    const auto* values = of.as<const int32_t>();
    for (int64_t i = 0; i < of.numel(); ++i)
      if (values[i] < -1 || values[i] >= limit) ThrowEntry(name, limit, i, values[i]);
  };
  require("rows", args.rows, args.logits.dim(0));
  require("ids", args.ids, args.logits.dim(1));
}

void ThrowEntry(const char* name, int64_t limit, int64_t position, int32_t value) {
  Throw("ERR_DATA", "adjust_logits", "expected ", name, " from 0 to ", limit - 1,
        " (or -1 for none) but received ", value, " at position ", position);
}

void Check(const MaskLogitsArgs& args) {
  const Rules rules(LabelOf(args));
  RequireLogits(rules, args.logits);
  rules.Int32("bits", args.bits);
  rules.ShapeIs("bits", args.bits, {args.logits.dim(0), CeilDiv(args.logits.dim(1), int64_t{32})},
                "(rows, words of 32 tokens)");
}

void Check(const LogProbsArgs& args) {
  const Rules rules(LabelOf(args));
  RequireLogits(rules, args.logits);
  const int64_t rows = args.logits.dim(0);
  rules.Int32("ids", args.ids);
  rules.ShapeIs("ids", args.ids, {rows}, "(rows)");
  LORA_CHECK(args.n >= 0 && args.n <= args.logits.dim(1), rules.op(), "expected n from 0 to ",
             args.logits.dim(1), " (vocab) but received ", args.n);
  rules.Type("values", args.values, {DType::kF32});
  rules.ShapeIs("values", args.values, {rows, 1 + args.n}, "(rows, 1 + n)");
  rules.Int32("topIds", args.top_ids);
  rules.ShapeIs("topIds", args.top_ids, {rows, 1 + args.n}, "(rows, 1 + n)");
}

}  // namespace lora
