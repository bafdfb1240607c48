// Checks of frozen matrices, lora_linear and the losses.
#include "core/check_helpers.h"
#include "core/checks.h"

namespace lora {
namespace {

using check::Rules;

void CheckWeight(const Rules& rules, const char* name, const PackedView& weight, DType act,
                 const char* act_name, int64_t cols, Direction direction) {
  LORA_CHECK(weight, rules.op(), "expected ", name, " but received none");
  LORA_CHECK(weight.direction == direction, rules.op(), "expected ", name, " packed for the ",
             direction == Direction::kForward ? "forward" : "backward", " direction");
  LORA_CHECK(weight.dtype == act, rules.op(), "expected ", name, " of dtype ", NameOf(act),
             " (that of ", act_name, ") but received ", NameOf(weight.dtype));
  LORA_CHECK(weight.cols == cols, rules.op(), "expected ", name, " of ", cols,
             " columns (the last dimension of ", act_name, ") but received shape ",
             Shape{weight.rows, weight.cols});
}

void CheckBranch(const Rules& rules, const LoraBranch& branch) {
  const int64_t out = branch.weight.rows, in = branch.weight.cols;
  if (branch.bias) {
    rules.ShapeIs("bias", branch.bias, {out}, "(out)");
    rules.TypeOrFloat32("bias", branch.bias, "weight", branch.weight.dtype);
  }
  LORA_CHECK(branch.a.defined == branch.b.defined, rules.op(),
             "expected a and b together but received ", branch.a.defined ? "a alone" : "b alone");
  if (!branch.a) return;
  rules.Float32("a", branch.a);
  rules.Float32("b", branch.b);
  rules.Rank("a", branch.a, 2, "(out, rank)");
  const int64_t rank = branch.a.dim(1);
  LORA_CHECK(rank >= 1, rules.op(), "expected a rank of at least 1 but received a of shape ",
             branch.a.shape);
  rules.ShapeIs("a", branch.a, {out, rank}, "(out, rank)");
  rules.ShapeIs("b", branch.b, {rank, in}, "(rank, in)");
  rules.Finite("scale", branch.scale);
  LORA_CHECK(branch.dropout.p >= 0 && branch.dropout.p < 1, rules.op(),
             "expected dropout p in [0, 1) but received ", branch.dropout.p);
}

void CheckLabels(const Rules& rules, const TensorView& labels, int64_t n) {
  rules.Int32("labels", labels);
  rules.ShapeIs("labels", labels, {n}, "(one per row)");
}

void CheckSum(const Rules& rules, const char* name, const TensorView& view) {
  rules.Float32(name, view);
  LORA_CHECK(view.numel() == 1, rules.op(), "expected ", name,
             " of one element but received shape ", view.shape);
}

}  // namespace

void Check(const PackArgs& args) {
  const Rules rules("pack");
  rules.Rank("weight", args.src, 2, "(out, in)");
  rules.InferenceAct("weight", args.src);
  LORA_CHECK(args.dst != nullptr, rules.op(), "expected memory for the packed weight");
}

void Check(const UnpackArgs& args) {
  const Rules rules("unpack");
  LORA_CHECK(args.src, rules.op(), "expected a packed weight but received none");
  LORA_CHECK(args.src.direction == Direction::kForward, rules.op(),
             "expected a weight packed for the forward direction");
  rules.ShapeIs("dst", args.dst, {args.src.rows, args.src.cols}, "(out, in)");
  rules.SameType("dst", args.dst, "weight", args.src.dtype);
}

void Check(const LoraLinearForwardArgs& args) {
  const Rules rules("lora_linear");
  rules.Rank("x", args.x, 2, "(rows, in)");
  rules.InferenceAct("x", args.x);
  const size_t n = args.branches.size();
  LORA_CHECK(n >= 1, rules.op(), "expected at least one branch but received none");
  rules.Count("y", args.y.size(), n, "branch");
  rules.Count("h", args.h.size(), n, "branch");
  for (size_t i = 0; i < n; ++i) {
    const LoraBranch& branch = args.branches[i];
    CheckWeight(rules, "weight", branch.weight, args.x.dtype, "x", args.x.dim(1),
                Direction::kForward);
    CheckBranch(rules, branch);
    rules.ShapeIs("y", args.y[i], {args.x.dim(0), branch.weight.rows}, "(rows, out)");
    rules.SameType("y", args.y[i], "x", args.x.dtype);
    if (!args.h[i]) continue;
    LORA_CHECK(branch.a, rules.op(), "expected no h without a and b");
    rules.ShapeIs("h", args.h[i], {args.x.dim(0), branch.a.dim(1)}, "(rows, rank)");
    rules.Float32("h", args.h[i]);
  }
}

void Check(const LoraLinearBackwardArgs& args) {
  const Rules rules("lora_linear");
  const size_t n = args.branches.size();
  LORA_CHECK(n >= 1, rules.op(), "expected at least one branch but received none");
  rules.Count("g", args.g.size(), n, "branch");
  rules.Count("h", args.h.size(), n, "branch");
  rules.Count("da", args.da.size(), n, "branch");
  rules.Count("db", args.db.size(), n, "branch");
  rules.Rank("g", args.g[0], 2, "(rows, out)");
  rules.Act("g", args.g[0]);
  const int64_t rows = args.g[0].dim(0), in = args.branches[0].weight.cols;
  const DType act = args.g[0].dtype;
  if (args.x) {
    rules.ShapeIs("x", args.x, {rows, in}, "(rows, in)");
    rules.SameType("x", args.x, "g", act);
  }
  if (args.dx) {
    rules.ShapeIs("dx", args.dx, {rows, in}, "(rows, in)");
    rules.SameType("dx", args.dx, "g", act);
  }
  for (size_t i = 0; i < n; ++i) {
    const LoraBranch& branch = args.branches[i];
    CheckWeight(rules, "weight", branch.weight, act, "g", in, Direction::kBackward);
    CheckBranch(rules, branch);
    rules.ShapeIs("g", args.g[i], {rows, branch.weight.rows}, "(rows, out)");
    rules.SameType("g", args.g[i], "the first g", act);
    LORA_CHECK((!args.da[i] && !args.db[i]) || branch.a, rules.op(),
               "expected a and b where their gradients are wanted but received none");
    if (args.da[i]) {
      rules.ShapeIs("da", args.da[i], branch.a.shape, "(out, rank)");
      rules.Float32("da", args.da[i]);
      rules.ShapeIs("h", args.h[i], {rows, branch.a.dim(1)}, "(rows, rank)");
      rules.Float32("h", args.h[i]);
    }
    if (args.db[i]) {
      rules.ShapeIs("db", args.db[i], branch.b.shape, "(rank, in)");
      rules.Float32("db", args.db[i]);
      rules.Present("x", args.x);
    }
  }
}

void Check(const CrossEntropyForwardArgs& args) {
  const Rules rules("cross_entropy");
  rules.Rank("logits", args.logits, 2, "(rows, vocab)");
  rules.Act("logits", args.logits);
  CheckLabels(rules, args.labels, args.logits.dim(0));
  CheckSum(rules, "loss", args.loss);
  CheckSum(rules, "count", args.count);
  if (!args.lse) return;
  rules.ShapeIs("lse", args.lse, {args.logits.dim(0)}, "(rows)");
  rules.Float32("lse", args.lse);
}

void Check(const CrossEntropyBackwardArgs& args) {
  const Rules rules("cross_entropy");
  rules.Rank("logits", args.logits, 2, "(rows, vocab)");
  rules.Act("logits", args.logits);
  CheckLabels(rules, args.labels, args.logits.dim(0));
  rules.ShapeIs("lse", args.lse, {args.logits.dim(0)}, "(rows)");
  rules.Float32("lse", args.lse);
  CheckSum(rules, "g", args.g);
  rules.ShapeIs("dlogits", args.dlogits, args.logits.shape, "(rows, vocab)");
  rules.SameType("dlogits", args.dlogits, "logits", args.logits.dtype);
}

void Check(const LinearCrossEntropyArgs& args) {
  const Rules rules("linear_cross_entropy");
  rules.Rank("hidden", args.hidden, 2, "(rows, dim)");
  rules.Act("hidden", args.hidden);
  CheckWeight(rules, "weight", args.weight, args.hidden.dtype, "hidden", args.hidden.dim(1),
              Direction::kForward);
  CheckLabels(rules, args.labels, args.hidden.dim(0));
  CheckSum(rules, "loss", args.loss);
  CheckSum(rules, "count", args.count);
  if (!args.d_hidden) return;
  CheckWeight(rules, "weight", args.weight_bwd, args.hidden.dtype, "hidden", args.hidden.dim(1),
              Direction::kBackward);
  rules.ShapeIs("d_hidden", args.d_hidden, args.hidden.shape, "(rows, dim)");
  rules.Float32("d_hidden", args.d_hidden);
}

}  // namespace lora
