// Checks of the optimizer, of the tape's small set, and of random numbers.
#include "core/check_helpers.h"
#include "core/checks.h"
#include "core/shapes.h"

namespace lora {
namespace {

using check::Rules;

const char* OpName(BinaryKind kind) {
  switch (kind) {
    case BinaryKind::kAdd:
      return "add";
    case BinaryKind::kSub:
      return "sub";
    case BinaryKind::kMul:
      return "mul";
    case BinaryKind::kDiv:
      return "div";
  }
  return "binary";
}

const char* OpName(UnaryKind kind) {
  switch (kind) {
    case UnaryKind::kCopy:
      return "copy";
    case UnaryKind::kScale:
      return "scale";
    case UnaryKind::kSquare:
      return "square";
    case UnaryKind::kRelu:
      return "relu";
    case UnaryKind::kGelu:
      return "gelu";
    case UnaryKind::kSilu:
      return "silu";
  }
  return "unary";
}

void Floating(const Rules& rules, const char* name, const TensorView& view) {
  rules.Type(name, view, {DType::kF32, DType::kBF16, DType::kF16, DType::kF64});
}

}  // namespace

Shape BroadcastShapes(const char* op, const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  Shape result;
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank()), ib = i - (rank - b.rank());
    const int64_t da = ia < 0 ? 1 : a[ia], db = ib < 0 ? 1 : b[ib];
    LORA_CHECK(da == db || da == 1 || db == 1, op, "expected shapes that broadcast but received ",
               a, " and ", b);
    result.push_back(da == 1 ? db : da);
  }
  return result;
}

Shape MatmulShape(const Shape& a, const Shape& b, bool trans_a, bool trans_b) {
  const char* op = "matmul";
  LORA_CHECK(a.rank() >= 2 && b.rank() >= 2, op,
             "expected a and b of at least 2 dimensions but received ", a, " and ", b);
  const int64_t m = a[trans_a ? -1 : -2], ka = a[trans_a ? -2 : -1];
  const int64_t kb = b[trans_b ? -1 : -2], n = b[trans_b ? -2 : -1];
  LORA_CHECK(ka == kb, op, "expected b with an inner dimension of ", ka, " (that of a ", a,
             ") but received ", b);
  Shape lead_a, lead_b;
  for (int i = 0; i < a.rank() - 2; ++i) lead_a.push_back(a[i]);
  for (int i = 0; i < b.rank() - 2; ++i) lead_b.push_back(b[i]);
  Shape result = BroadcastShapes(op, lead_a, lead_b);
  result.push_back(m);
  result.push_back(n);
  return result;
}

Shape TransposedShape(const Shape& shape, const std::vector<int>& perm) {
  const char* op = "transpose";
  LORA_CHECK(static_cast<int>(perm.size()) == shape.rank(), op, "expected a permutation of ",
             shape.rank(), " dimensions but received ", perm.size());
  Shape result;
  unsigned seen = 0;
  for (const int d : perm) {
    LORA_CHECK(d >= 0 && d < shape.rank() && !(seen >> d & 1u), op,
               "expected each dimension of 0 to ", shape.rank() - 1, " once but received ", d);
    seen |= 1u << d;
    result.push_back(shape[d]);
  }
  return result;
}

void Check(const AdamWArgs& args) {
  const Rules rules("adamw");
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
  const Rules rules("global_norm");
  for (const TensorView& tensor : args.tensors) rules.Float32("tensor", tensor);
  rules.Float32("norm", args.norm);
  LORA_CHECK(args.norm.numel() == 1, rules.op(), "expected norm of one element but received shape ",
             args.norm.shape);
}

void Check(const ClipByNormArgs& args) {
  const Rules rules("clip_by_norm");
  for (const TensorView& tensor : args.tensors) rules.Float32("tensor", tensor);
  rules.Float32("norm", args.norm);
  LORA_CHECK(args.norm.numel() == 1, rules.op(), "expected norm of one element but received shape ",
             args.norm.shape);
  LORA_CHECK(args.max_norm >= 0, rules.op(), "expected maxNorm of 0 or more but received ",
             args.max_norm);
}

void Check(const BinaryArgs& args) {
  const Rules rules(OpName(args.kind));
  Floating(rules, "a", args.a);
  Floating(rules, "b", args.b);
  Floating(rules, "y", args.y);
  rules.ShapeIs("y", args.y, BroadcastShapes(rules.op(), args.a.shape, args.b.shape),
                "(a and b broadcast)");
}

void Check(const UnaryArgs& args) {
  const Rules rules(OpName(args.kind));
  if (args.kind == UnaryKind::kCopy) {
    rules.Present("x", args.x);
    rules.Present("y", args.y);
  } else {
    Floating(rules, "x", args.x);
    Floating(rules, "y", args.y);
  }
  LORA_CHECK(args.x.shape == args.y.shape, rules.op(), "expected y of shape ", args.x.shape,
             " (that of x) but received ", args.y.shape);
  LORA_CHECK(!std::isnan(args.alpha), rules.op(), "expected alpha to be a number but received NaN");
}

void Check(const UnaryBackwardArgs& args) {
  const Rules rules(OpName(args.kind));
  Floating(rules, "x", args.x);
  Floating(rules, "g", args.g);
  Floating(rules, "dx", args.dx);
  rules.ShapeIs("g", args.g, args.x.shape, "(that of x)");
  rules.ShapeIs("dx", args.dx, args.x.shape, "(that of x)");
  LORA_CHECK(!std::isnan(args.alpha), rules.op(), "expected alpha to be a number but received NaN");
}

void Check(const ReduceSumArgs& args) {
  const Rules rules("sum");
  Floating(rules, "x", args.x);
  Floating(rules, "y", args.y);
  const Shape &x = args.x.shape, &y = args.y.shape;
  bool fits = y.rank() <= x.rank();
  for (int i = 1; fits && i <= y.rank(); ++i) fits = y[-i] == 1 || y[-i] == x[-i];
  LORA_CHECK(fits, rules.op(), "expected a result shape that broadcasts to ", x, " but received ",
             y);
}

void Check(const AccumulateArgs& args) {
  const Rules rules("accumulate");
  Floating(rules, "x", args.x);
  Floating(rules, "y", args.y);
  rules.ShapeIs("x", args.x, args.y.shape, "(that of y)");
}

void Check(const FillArgs& args) {
  const Rules rules("fill");
  rules.Present("y", args.y);
}

void Check(const TransposeArgs& args) {
  const Rules rules("transpose");
  rules.Present("x", args.x);
  rules.ShapeIs("y", args.y, TransposedShape(args.x.shape, args.perm), "(x permuted)");
  rules.SameType("y", args.y, "x", args.x.dtype);
}

void Check(const MatmulArgs& args) {
  const Rules rules("matmul");
  Floating(rules, "a", args.a);
  Floating(rules, "b", args.b);
  Floating(rules, "y", args.y);
  rules.ShapeIs("y", args.y, MatmulShape(args.a.shape, args.b.shape, args.trans_a, args.trans_b),
                "(a times b)");
}

void Check(const RandomArgs& args) {
  const Rules rules("random");
  rules.Float32("y", args.y);
  rules.Finite(args.kind == RandomKind::kUniform ? "lo" : "mean", args.lo);
  rules.Finite(args.kind == RandomKind::kUniform ? "hi" : "std", args.hi);
}

}  // namespace lora
