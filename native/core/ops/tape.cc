// States the rules of the ops of the tape.
#include "core/ops/tape.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/ops/rules.h"

namespace lora {

using check::Rules;

namespace {

void CheckSizes(const Rules& rules, const std::vector<int64_t>& sizes) {
  LORA_CHECK(!sizes.empty() && sizes.size() <= kMaxColumnParts, rules.op(),
             "expected sizes of 1 to ", kMaxColumnParts, " parts but received ", sizes.size());
}

int64_t ColumnsOf(const std::vector<int64_t>& sizes) {
  return std::reduce(sizes.begin(), sizes.end());
}

}  // namespace

void Check(const BinaryArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Floating("a", args.a);
  rules.Floating("b", args.b);
  rules.Floating("y", args.y);
  rules.ShapeIs("y", args.y, BroadcastShapes(rules.op(), args.a.shape, args.b.shape),
                "(a and b broadcast)");
}

void Check(const UnaryArgs& args) {
  const Rules rules(LabelOf(args));
  if (args.kind == UnaryKind::kCopy) {
    rules.Present("x", args.x);
    rules.Present("y", args.y);
  } else {
    rules.Floating("x", args.x);
    rules.Floating("y", args.y);
  }
  LORA_CHECK(args.x.shape == args.y.shape, rules.op(), "expected y of shape ", args.x.shape,
             " (that of x) but received ", args.y.shape);
  LORA_CHECK(!std::isnan(args.alpha), rules.op(), "expected alpha to be a number but received NaN");
}

void Check(const UnaryBackwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Floating("x", args.x);
  rules.Floating("g", args.g);
  rules.Floating("dx", args.dx);
  rules.ShapeIs("g", args.g, args.x.shape, "(that of x)");
  rules.ShapeIs("dx", args.dx, args.x.shape, "(that of x)");
  LORA_CHECK(!std::isnan(args.alpha), rules.op(), "expected alpha to be a number but received NaN");
}

void Check(const ReduceSumArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Floating("x", args.x);
  rules.Floating("y", args.y);
  const Shape &x = args.x.shape, &y = args.y.shape;
  bool fits = y.rank() <= x.rank();
  for (int i = 1; fits && i <= y.rank(); ++i) fits = y[-i] == 1 || y[-i] == x[-i];
  LORA_CHECK(fits, rules.op(), "expected a result shape that broadcasts to ", x, " but received ",
             y);
}

void Check(const AccumulateArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Floating("x", args.x);
  rules.Floating("y", args.y);
  rules.ShapeIs("x", args.x, args.y.shape, "(that of y)");
}

void Check(const FillArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Present("y", args.y);
}

void Check(const TransposeArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Present("x", args.x);
  LORA_CHECK(args.x.dtype != DType::kI8, rules.op(),
             "expected x of dtype f32, bf16, f16 or i32 but received i8");
  rules.ShapeIs("y", args.y, TransposedShape(args.x.shape, args.perm), "(x permuted)");
  rules.SameType("y", args.y, "x", args.x.dtype);
}

void Check(const SplitColumnsArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Rank("x", args.x, 2, "(rows, columns)");
  rules.Floating("x", args.x);
  CheckSizes(rules, args.sizes);
  LORA_CHECK(ColumnsOf(args.sizes) == args.x.dim(1), rules.op(), "expected sizes of ",
             args.x.dim(1), " columns in all (the last dimension of x) but received ",
             ColumnsOf(args.sizes));
  rules.Count("parts", args.parts.size(), args.sizes.size(), "size");
  for (size_t i = 0; i < args.parts.size(); ++i) {
    rules.ShapeIs("part", args.parts[i], {args.x.dim(0), args.sizes[i]}, "(rows, size)");
    rules.SameType("part", args.parts[i], "x", args.x.dtype);
  }
}

Result JoinedColumns(const JoinColumnsArgs& args) {
  CheckSizes(Rules(LabelOf(args)), args.sizes);
  const auto first = std::find_if(args.parts.begin(), args.parts.end(),
                                  [](const TensorView& part) { return part.defined; });
  LORA_CHECK(first != args.parts.end(), LabelOf(args), "expected a part but received none");
  return {first->dtype, {first->dim(0), ColumnsOf(args.sizes)}};
}

void Check(const JoinColumnsArgs& args) {
  const Rules rules(LabelOf(args));
  const Result joined = JoinedColumns(args);
  rules.Count("parts", args.parts.size(), args.sizes.size(), "size");
  for (size_t i = 0; i < args.parts.size(); ++i) {
    const TensorView& part = args.parts[i];
    if (!part) continue;
    rules.ShapeIs("part", part, {joined.shape[0], args.sizes[i]}, "(rows, size)");
    rules.Floating("part", part);
    rules.SameType("part", part, "the first", joined.dtype);
  }
  rules.ShapeIs("y", args.y, joined.shape, "(rows, columns)");
  rules.SameType("y", args.y, "part", joined.dtype);
}

void Check(const MatmulArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Floating("a", args.a);
  rules.Floating("b", args.b);
  rules.Floating("y", args.y);
  rules.ShapeIs("y", args.y, MatmulShape(args.a.shape, args.b.shape, args.trans_a, args.trans_b),
                "(a times b)");
}

}  // namespace lora
