// States the rules of the ops of the tape.
#include "core/ops/tape.h"

#include "core/ops/rules.h"

namespace lora {

using check::Rules;

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

void Check(const MatmulArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Floating("a", args.a);
  rules.Floating("b", args.b);
  rules.Floating("y", args.y);
  rules.ShapeIs("y", args.y, MatmulShape(args.a.shape, args.b.shape, args.trans_a, args.trans_b),
                "(a times b)");
}

}  // namespace lora
