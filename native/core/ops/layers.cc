// States the rules of the layers of a Llama-family model.
#include "core/ops/layers.h"

#include "core/ops/rules.h"

namespace lora {
namespace {

using check::Rules;

// Checks what forward and backward of attention share: q [b, s, hq, d] and k, v [b, s, hkv, d].
void CheckAttentionOperands(const Rules& rules, const TensorView& q, const TensorView& k,
                            const TensorView& v, const TensorView& key_begin,
                            const TensorView& key_end, int64_t window, float scale) {
  rules.Rank("q", q, 4, "(batch, queries, heads, head_dim)");
  rules.Rank("k", k, 4, "(batch, keys, kv_heads, head_dim)");
  rules.SameType("k", k, "q", q.dtype);
  rules.ShapeIs("k", k, {q.dim(0), k.dim(1), k.dim(2), q.dim(3)},
                "(batch, keys, kv_heads, head_dim)");
  LORA_CHECK(k.dim(1) == q.dim(1), rules.op(), "expected k of ", q.dim(1),
             " keys (the queries of q) but received ", k.dim(1));
  rules.ShapeIs("v", v, k.shape, "(that of k)");
  rules.SameType("v", v, "q", q.dtype);
  LORA_CHECK(k.dim(2) > 0 ? q.dim(2) % k.dim(2) == 0 : q.dim(2) == 0, rules.op(),
             "expected q heads to be a multiple of kv heads but received ", q.dim(2), " and ",
             k.dim(2));
  const auto of_queries = [&](const char* name, const TensorView& keys) {
    if (!keys) return;
    rules.Int32(name, keys);
    rules.ShapeIs(name, keys, {q.dim(0), q.dim(1)}, "(batch, queries)");
  };
  of_queries("keyBegin", key_begin);
  of_queries("keyEnd", key_end);
  LORA_CHECK(window >= 0, rules.op(), "expected window to be 0 (none) or more but received ",
             window);
  rules.Finite("scale", scale);
}

void CheckLse(const Rules& rules, const TensorView& lse, const TensorView& q) {
  rules.ShapeIs("lse", lse, {q.dim(0), q.dim(2), q.dim(1)}, "(batch, heads, queries)");
  rules.Float32("lse", lse);
}

void CheckEps(const Rules& rules, float eps) {
  rules.Finite("eps", eps);
  LORA_CHECK(eps >= 0, rules.op(), "expected eps of 0 or more but received ", eps);
}

}  // namespace

void Check(const EmbeddingArgs& args) {
  const Rules rules(LabelOf(args));
  LORA_CHECK(args.weight, rules.op(), "expected weight but received none");
  rules.Int32("ids", args.ids);
  rules.Rank("ids", args.ids, 1, "(ids)");
  rules.ShapeIs("y", args.y, {args.ids.dim(0), args.weight.cols}, "(ids, dim)");
  rules.SameType("y", args.y, "weight", args.weight.dtype);
}

void Check(const EmbeddingBackwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Int32("ids", args.ids);
  rules.Rank("ids", args.ids, 1, "(ids)");
  rules.Rank("dw", args.dw, 2, "(vocab, dim)");
  rules.Float32("dw", args.dw);
  rules.ShapeIs("g", args.g, {args.ids.dim(0), args.dw.dim(1)}, "(ids, dim)");
  rules.SameType("g", args.g, "dw", args.dw.dtype);
}

void Check(const RmsNormForwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Rank("x", args.x, 2, "(rows, dim)");
  rules.InferenceAct("y", args.y);
  rules.TypeOrFloat32("x", args.x, "y", args.y.dtype);
  if (args.addend) {
    rules.ShapeIs("addend", args.addend, args.x.shape, "(that of x)");
    rules.SameType("addend", args.addend, "y", args.y.dtype);
    rules.Like("sum", args.sum, "x", args.x);
  } else {
    LORA_CHECK(!args.sum, rules.op(), "expected addend with sum but received none");
  }
  rules.ShapeIs("weight", args.weight, {args.x.dim(1)}, "(dim)");
  rules.TypeOrFloat32("weight", args.weight, "y", args.y.dtype);
  CheckEps(rules, args.eps);
  rules.ShapeIs("y", args.y, args.x.shape, "(that of x)");
  if (!args.rstd) return;
  rules.ShapeIs("rstd", args.rstd, {args.x.dim(0)}, "(rows)");
  rules.Float32("rstd", args.rstd);
}

void Check(const RmsNormBackwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Rank("x", args.x, 2, "(rows, dim)");
  rules.Act("g", args.g);
  rules.ShapeIs("g", args.g, args.x.shape, "(that of x)");
  rules.TypeOrFloat32("x", args.x, "g", args.g.dtype);
  rules.ShapeIs("weight", args.weight, {args.x.dim(1)}, "(dim)");
  rules.TypeOrFloat32("weight", args.weight, "g", args.g.dtype);
  rules.ShapeIs("rstd", args.rstd, {args.x.dim(0)}, "(rows)");
  rules.Float32("rstd", args.rstd);
  if (args.g_sum) rules.Like("gSum", args.g_sum, "x", args.x);
  rules.Like("dx", args.dx, "x", args.x);
  if (args.d_addend) rules.Like("dAddend", args.d_addend, "g", args.g);
  CheckEps(rules, args.eps);
  if (args.y) rules.Like("y", args.y, "g", args.g);
}

void Check(const LayerNormForwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Rank("x", args.x, 2, "(rows, dim)");
  rules.InferenceAct("x", args.x);
  for (const auto& [name, row] : {std::pair{"weight", args.weight}, {"bias", args.bias}}) {
    rules.ShapeIs(name, row, {args.x.dim(1)}, "(dim)");
    rules.TypeOrFloat32(name, row, "x", args.x.dtype);
  }
  CheckEps(rules, args.eps);
  rules.Like("y", args.y, "x", args.x);
  for (const auto& [name, of_rows] : {std::pair{"mean", args.mean}, {"rstd", args.rstd}}) {
    if (!of_rows) continue;
    rules.ShapeIs(name, of_rows, {args.x.dim(0)}, "(rows)");
    rules.Float32(name, of_rows);
  }
}

void Check(const LayerNormBackwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Rank("x", args.x, 2, "(rows, dim)");
  rules.Act("x", args.x);
  rules.ShapeIs("weight", args.weight, {args.x.dim(1)}, "(dim)");
  rules.TypeOrFloat32("weight", args.weight, "x", args.x.dtype);
  for (const auto& [name, of_rows] : {std::pair{"mean", args.mean}, {"rstd", args.rstd}}) {
    rules.ShapeIs(name, of_rows, {args.x.dim(0)}, "(rows)");
    rules.Float32(name, of_rows);
  }
  rules.Like("g", args.g, "x", args.x);
  rules.Like("dx", args.dx, "x", args.x);
}

void Check(const RopeArgs& args) {
  const Rules rules(LabelOf(args));
  constexpr const char* kDims = "(batch, sequence, heads, head_dim)";
  rules.Rank("q", args.q, 4, kDims);
  rules.InferenceAct("q", args.q);
  const int64_t batch = args.q.dim(0), sequence = args.q.dim(1), d = args.q.dim(3);
  if (args.k) {
    rules.Rank("k", args.k, 4, kDims);
    rules.SameType("k", args.k, "q", args.q.dtype);
    rules.ShapeIs("k", args.k, {batch, sequence, args.k.dim(2), d}, kDims);
    rules.Like("rotatedK", args.rotated_k, "k", args.k);
  } else {
    LORA_CHECK(!args.rotated_k, rules.op(), "expected k with rotatedK but received none");
  }
  rules.Rotation("q", args.q, args.cos, args.sin);
  if (args.positions) {
    rules.Int32("positions", args.positions);
    rules.ShapeIs("positions", args.positions, {batch, sequence}, "(batch, sequence)");
  } else {
    const int64_t positions = args.cos.dim(0);
    LORA_CHECK(args.offset >= 0 && args.offset <= positions - sequence, rules.op(),
               "expected offset + sequence to be at most ", positions,
               " (the positions of the table) but received ", args.offset, " + ", sequence);
  }
  rules.Like("rotatedQ", args.rotated_q, "q", args.q);
}

void Check(const AttentionForwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.InferenceAct("q", args.q);
  CheckAttentionOperands(rules, args.q, args.k, args.v, args.key_begin, args.key_end, args.window,
                         args.scale);
  if (args.sinks) rules.Sinks(args.sinks, args.q.dim(2));
  rules.Like("y", args.y, "q", args.q);
  if (args.lse) CheckLse(rules, args.lse, args.q);
}

void Check(const AttentionBackwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Act("q", args.q);
  CheckAttentionOperands(rules, args.q, args.k, args.v, args.key_begin, args.key_end, args.window,
                         args.scale);
  rules.Like("y", args.y, "q", args.q);
  CheckLse(rules, args.lse, args.q);
  rules.Like("g", args.g, "q", args.q);
  rules.Like("dq", args.dq, "q", args.q);
  rules.Like("dk", args.dk, "k", args.k);
  rules.Like("dv", args.dv, "v", args.v);
}

void Check(const GatedForwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.InferenceAct("gate", args.gate);
  rules.Like("up", args.up, "gate", args.gate);
  rules.Like("y", args.y, "gate", args.gate);
}

void Check(const GatedBackwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Act("gate", args.gate);
  rules.Like("up", args.up, "gate", args.gate);
  rules.Like("g", args.g, "gate", args.gate);
  rules.Like("dgate", args.dgate, "gate", args.gate);
  rules.Like("dup", args.dup, "gate", args.gate);
  if (args.y) rules.Like("y", args.y, "gate", args.gate);
}

}  // namespace lora
