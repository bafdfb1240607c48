// The rules of routing and of the products of experts.
#include "core/ops/experts.h"

#include "core/ops/rules.h"

namespace lora {
namespace {

using check::Rules;

void CheckMatrix(const Rules& rules, const char* name, const TensorView& view) {
  rules.Rank(name, view, 2, "(rows, columns)");
}

// Checks the assignments of rows [m, d] to tokens [n, d].
void CheckAssignments(const Rules& rules, const char* name, const TensorView& list, int64_t m,
                      int64_t n) {
  rules.ShapeIs(name, list, {m}, "(assignments)");
  rules.Int32(name, list);
  LORA_CHECK(n == 0 ? m == 0 : m % n == 0, rules.op(), "expected a multiple of ", n,
             " assignments (tokens) but received ", m);
}

void CheckWeights(const Rules& rules, const TensorView& weights, int64_t m) {
  if (!weights) return;
  rules.ShapeIs("weights", weights, {m}, "(assignments)");
  rules.Float32("weights", weights);
}

// Checks offsets and the experts between them.
void CheckExperts(const Rules& rules, const TensorView& offsets,
                  const std::vector<Expert>& experts) {
  const auto count = static_cast<int64_t>(experts.size());
  LORA_CHECK(count >= 1, rules.op(), "expected at least one expert but received none");
  rules.ShapeIs("offsets", offsets, {count + 1}, "(experts + 1)");
  rules.Int32("offsets", offsets);
  LORA_CHECK(experts[0].weight, rules.op(), "expected weight but received none");
  const Shape shape{experts[0].weight.rows, experts[0].weight.cols};
  for (const Expert& expert : experts) {
    const Shape own{expert.weight.rows, expert.weight.cols};
    LORA_CHECK(expert.weight, rules.op(), "expected weight but received none");
    LORA_CHECK(own == shape, rules.op(), "expected a weight of shape ", shape,
               " (that of the first expert) but received ", own);
    if (!expert.bias) continue;
    rules.ShapeIs("bias", expert.bias, {shape[0]}, "(out)");
    rules.TypeOrFloat32("bias", expert.bias, "weight", expert.weight.dtype);
  }
}

// Checks up and down. Returns their rank, 0 where there are none.
int64_t CheckChange(const Rules& rules, const TensorView& up, const TensorView& down, float scale,
                    const std::vector<Expert>& experts) {
  LORA_CHECK(up.defined == down.defined, rules.op(), "expected up and down together but received ",
             up.defined ? "up alone" : "down alone");
  if (!up) return 0;
  const auto count = static_cast<int64_t>(experts.size());
  rules.Float32("up", up);
  rules.Float32("down", down);
  rules.Rank("up", up, 3, "(experts, out, rank)");
  const int64_t rank = up.dim(2);
  LORA_CHECK(rank >= 1, rules.op(), "expected a rank of at least 1 but received up of shape ",
             up.shape);
  rules.ShapeIs("up", up, {count, experts[0].weight.rows, rank}, "(experts, out, rank)");
  rules.ShapeIs("down", down, {count, rank, experts[0].weight.cols}, "(experts, rank, in)");
  rules.Finite("scale", scale);
  return rank;
}

}  // namespace

void Check(const RouteForwardArgs& args) {
  const Rules rules(LabelOf(args));
  CheckMatrix(rules, "logits", args.logits);
  rules.Float32("logits", args.logits);
  const int64_t n = args.tokens(), k = args.chosen, m = n * k;
  LORA_CHECK(k >= 1 && k <= args.count(), rules.op(), "expected to choose 1 to ", args.count(),
             " experts but received ", k);
  LORA_CHECK(m <= INT32_MAX, rules.op(), "expected at most ", INT32_MAX,
             " assignments but received ", m);
  rules.ShapeIs("weights", args.weights, {n, k}, "(tokens, chosen)");
  rules.Float32("weights", args.weights);
  rules.ShapeIs("experts", args.experts, {n, k}, "(tokens, chosen)");
  rules.Int32("experts", args.experts);
  rules.ShapeIs("order", args.order, {m}, "(assignments)");
  rules.Int32("order", args.order);
  rules.ShapeIs("places", args.places, {m}, "(assignments)");
  rules.Int32("places", args.places);
  rules.ShapeIs("offsets", args.offsets, {args.count() + 1}, "(experts + 1)");
  rules.Int32("offsets", args.offsets);
}

void Check(const RouteBackwardArgs& args) {
  const Rules rules(LabelOf(args));
  CheckMatrix(rules, "logits", args.logits);
  rules.Float32("logits", args.logits);
  CheckMatrix(rules, "experts", args.experts);
  rules.Int32("experts", args.experts);
  rules.ShapeIs("experts", args.experts, {args.logits.dim(0), args.experts.dim(1)},
                "(tokens, chosen)");
  rules.ShapeIs("g", args.g, args.experts.shape, "(tokens, chosen)");
  rules.Float32("g", args.g);
  rules.Like("dLogits", args.d_logits, "logits", args.logits);
}

void Check(const SpreadRowsArgs& args) {
  const Rules rules(LabelOf(args));
  CheckMatrix(rules, "x", args.x);
  rules.InferenceAct("x", args.x);
  rules.Rank("order", args.order, 1, "(assignments)");
  const int64_t m = args.order.dim(0);
  CheckAssignments(rules, "order", args.order, m, args.x.dim(0));
  CheckWeights(rules, args.weights, m);
  rules.ShapeIs("y", args.y, {m, args.x.dim(1)}, "(assignments, columns)");
  rules.SameType("y", args.y, "x", args.x.dtype);
}

void Check(const CombineRowsArgs& args) {
  const Rules rules(LabelOf(args));
  CheckMatrix(rules, "x", args.x);
  rules.InferenceAct("x", args.x);
  const int64_t m = args.x.dim(0), k = args.chosen;
  rules.ShapeIs("places", args.places, {m}, "(assignments)");
  rules.Int32("places", args.places);
  LORA_CHECK(k >= 1 && m % k == 0, rules.op(), "expected a multiple of ", k,
             " assignments (chosen) but received ", m);
  CheckWeights(rules, args.weights, m);
  rules.ShapeIs("y", args.y, {m / k, args.x.dim(1)}, "(tokens, columns)");
  rules.SameType("y", args.y, "x", args.x.dtype);
}

void Check(const RowDotsArgs& args) {
  const Rules rules(LabelOf(args));
  CheckMatrix(rules, "g", args.g);
  rules.Act("g", args.g);
  CheckMatrix(rules, "x", args.x);
  const int64_t m = args.x.dim(0);
  rules.ShapeIs("x", args.x, {m, args.g.dim(1)}, "(assignments, columns)");
  rules.SameType("x", args.x, "g", args.g.dtype);
  CheckAssignments(rules, "places", args.places, m, args.g.dim(0));
  rules.ShapeIs("dots", args.dots, {m}, "(assignments)");
  rules.Float32("dots", args.dots);
}

void Check(const RoutedLinearForwardArgs& args) {
  const Rules rules(LabelOf(args));
  CheckMatrix(rules, "x", args.x);
  rules.InferenceAct("x", args.x);
  CheckExperts(rules, args.offsets, args.experts);
  for (const Expert& expert : args.experts)
    rules.Weight("weight", expert.weight, args.x.dtype, "x", args.x.dim(1));
  const int64_t rank = CheckChange(rules, args.up, args.down, args.scale, args.experts);
  const int64_t m = args.x.dim(0);
  rules.ShapeIs("y", args.y, {m, args.experts[0].weight.rows}, "(rows, out)");
  rules.SameType("y", args.y, "x", args.x.dtype);
  if (!args.h) return;
  LORA_CHECK(args.up, rules.op(), "expected no h without up and down");
  rules.ShapeIs("h", args.h, {m, rank}, "(rows, rank)");
  rules.Float32("h", args.h);
}

void Check(const RoutedLinearBackwardArgs& args) {
  const Rules rules(LabelOf(args));
  CheckMatrix(rules, "g", args.g);
  rules.Act("g", args.g);
  CheckExperts(rules, args.offsets, args.experts);
  const int64_t rank = CheckChange(rules, args.up, args.down, args.scale, args.experts);
  const int64_t m = args.g.dim(0), out = args.experts[0].weight.rows;
  const int64_t in = args.experts[0].weight.cols;
  rules.ShapeIs("g", args.g, {m, out}, "(rows, out)");
  for (const Expert& expert : args.experts)
    rules.Weight("weight", expert.weight, args.g.dtype, "dx", in);
  const bool wants = args.d_up || args.d_down;
  LORA_CHECK(!wants || args.up, rules.op(), "expected no dUp and dDown without up and down");
  if (args.d_down || args.x) {
    rules.ShapeIs("x", args.x, {m, in}, "(rows, in)");
    rules.SameType("x", args.x, "g", args.g.dtype);
  }
  if (args.d_up || args.h) {
    rules.ShapeIs("h", args.h, {m, rank}, "(rows, rank)");
    rules.Float32("h", args.h);
  }
  if (args.dx) {
    rules.ShapeIs("dx", args.dx, {m, in}, "(rows, in)");
    rules.SameType("dx", args.dx, "g", args.g.dtype);
  }
  if (args.d_up) rules.Like("dUp", args.d_up, "up", args.up);
  if (args.d_down) rules.Like("dDown", args.d_down, "down", args.down);
}

void Check(const RoutedWeightsArgs& args) {
  const Rules rules(LabelOf(args));
  CheckMatrix(rules, "x", args.x);
  rules.Act("x", args.x);
  CheckMatrix(rules, "g", args.g);
  const int64_t m = args.x.dim(0);
  rules.ShapeIs("g", args.g, {m, args.g.dim(1)}, "(rows, out)");
  rules.SameType("g", args.g, "x", args.x.dtype);
  rules.Rank("offsets", args.offsets, 1, "(experts + 1)");
  rules.Int32("offsets", args.offsets);
  const int64_t experts = args.offsets.dim(0) - 1;
  LORA_CHECK(experts >= 1, rules.op(), "expected at least one expert but received none");
  rules.ShapeIs("dw", args.dw, {experts, args.g.dim(1), args.x.dim(1)}, "(experts, out, in)");
  rules.Float32("dw", args.dw);
}

void CheckOffsets(const int32_t* offsets, int64_t experts, int64_t rows) {
  const auto expect = [](bool ok, const char* what, int64_t expected, int64_t found, int64_t at) {
    if (ok) return;
    Throw("ERR_DATA", "routed_linear", "expected offsets ", what, expected, " but received ", found,
          " at position ", at);
  };
  expect(offsets[0] == 0, "from ", 0, offsets[0], 0);
  for (int64_t e = 1; e <= experts; ++e)
    expect(offsets[e] >= offsets[e - 1], "of at least ", offsets[e - 1], offsets[e], e);
  expect(offsets[experts] == rows, "up to ", rows, offsets[experts], experts);
}

}  // namespace lora
