// States the rules of the gated delta rule.
#include "core/ops/gated_delta.h"

#include "core/ops/rules.h"

namespace lora {
namespace {

using check::Rules;

constexpr const char* kHeads = "(batch, sequence, heads, head_dim)";

template <class Args>
void CheckOperands(const Rules& rules, const Args& args) {
  rules.Rank("q", args.q, 4, kHeads);
  const int64_t batch = args.q.dim(0), tokens = args.q.dim(1), k_heads = args.q.dim(2);
  rules.Like("k", args.k, "q", args.q);
  rules.Rank("v", args.v, 4, kHeads);
  rules.SameType("v", args.v, "q", args.q.dtype);
  const int64_t v_heads = args.v.dim(2);
  rules.ShapeIs("v", args.v, {batch, tokens, v_heads, args.v.dim(3)}, kHeads);
  LORA_CHECK(k_heads > 0 ? v_heads % k_heads == 0 : v_heads == 0, rules.op(),
             "expected v heads to be a multiple of k heads but received ", v_heads, " and ",
             k_heads);
  for (const auto& [name, view] : {std::pair{"g", args.g}, {"beta", args.beta}}) {
    rules.ShapeIs(name, view, {batch, tokens, v_heads}, "(batch, sequence, v_heads)");
    rules.Float32(name, view);
  }
  rules.Finite("scale", args.scale);
  rules.Finite("eps", args.eps);
  LORA_CHECK(args.eps >= 0, rules.op(), "expected eps of 0 or more but received ", args.eps);
}

template <class Args>
void CheckKeyBegin(const Rules& rules, const Args& args) {
  if (!args.key_begin) return;
  rules.Int32("keyBegin", args.key_begin);
  rules.ShapeIs("keyBegin", args.key_begin, {args.q.dim(0), args.q.dim(1)}, "(batch, sequence)");
}

}  // namespace

void Check(const GatedDeltaForwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.InferenceAct("q", args.q);
  CheckOperands(rules, args);
  CheckKeyBegin(rules, args);
  rules.Like("y", args.y, "v", args.v);
}

void Check(const GatedDeltaBackwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Act("q", args.q);
  CheckOperands(rules, args);
  CheckKeyBegin(rules, args);
  rules.Like("dy", args.dy, "v", args.v);
  rules.Like("dq", args.dq, "q", args.q);
  rules.Like("dk", args.dk, "k", args.k);
  rules.Like("dv", args.dv, "v", args.v);
  rules.Like("dg", args.dg, "g", args.g);
  rules.Like("dbeta", args.dbeta, "beta", args.beta);
}

void Check(const GatedDeltaAppendArgs& args) {
  const Rules rules(LabelOf(args));
  rules.InferenceAct("q", args.q);
  CheckOperands(rules, args);
  const int64_t batch = args.q.dim(0);
  rules.Rank("pool", args.pool, 4, "(slots, v_heads, dk, dv)");
  rules.ShapeIs("pool", args.pool, {args.pool.dim(0), args.v.dim(2), args.q.dim(3), args.v.dim(3)},
                "(slots, v_heads, dk, dv)");
  rules.Float32("pool", args.pool);
  for (const auto& [name, view] : {std::pair{"slots", args.slots}, {"lengths", args.lengths}}) {
    rules.Int32(name, view);
    rules.ShapeIs(name, view, {batch}, "(batch)");
  }
  LORA_CHECK(args.phase != AttentionPhase::kDecode || args.q.dim(1) == 1, rules.op(),
             "expected q of one token per sequence in phase \"decode\" but received shape ",
             args.q.shape);
  rules.Like("y", args.y, "v", args.v);
}

}  // namespace lora
