// States the rules of the ops of the tape.
#include "core/ops/tape.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "core/ops/rules.h"

namespace lora {

using check::Rules;

namespace {

void CheckSizes(const Rules& rules, const std::vector<int64_t>& sizes) {
  LORA_CHECK(!sizes.empty() && sizes.size() <= kMaxColumnParts, rules.op(),
             "expected sizes of 1 to ", kMaxColumnParts, " parts but received ", sizes.size());
}

// Accepts what is copied bit for bit.
void Copied(const Rules& rules, const char* name, const TensorView& view) {
  rules.Present(name, view);
  LORA_CHECK(view.dtype != DType::kI8, rules.op(), "expected ", name,
             " of dtype f32, bf16, f16 or i32 but received i8");
}

void CheckIndex(const Rules& rules, const TensorView& index, int64_t dim, const char* of,
                const Shape& shape) {
  rules.Int32("index", index);
  LORA_CHECK(dim < shape.rank(), rules.op(), "expected dim to be one of the ", shape.rank(),
             " dimensions of ", of, " but received ", dim);
  bool fits = index.shape.rank() == shape.rank();
  for (int d = 0; fits && d < shape.rank(); ++d) fits = d == dim || index.dim(d) == shape[d];
  LORA_CHECK(fits || index.shape.rank() == 1, rules.op(),
             "expected an index of one dimension, or one like ", of, ' ', shape,
             " but for dimension ", dim, ", but received ", index.shape);
}

int64_t ColumnsOf(const std::vector<int64_t>& sizes) {
  return std::reduce(sizes.begin(), sizes.end());
}

void CheckAlpha(const Rules& rules, UnaryKind kind, float alpha) {
  LORA_CHECK(!std::isnan(alpha), rules.op(), "expected alpha to be a number but received NaN");
  LORA_CHECK(kind != UnaryKind::kSoftcap || (alpha != 0 && std::isfinite(alpha)), rules.op(),
             "expected alpha to be a finite number other than 0 but received ", alpha);
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
  CheckAlpha(rules, args.kind, args.alpha);
}

void Check(const UnaryBackwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Floating("x", args.x);
  rules.Floating("g", args.g);
  rules.Floating("dx", args.dx);
  rules.ShapeIs("g", args.g, args.x.shape, "(that of x)");
  rules.ShapeIs("dx", args.dx, args.x.shape, "(that of x)");
  CheckAlpha(rules, args.kind, args.alpha);
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
  Copied(rules, "x", args.x);
  rules.ShapeIs("y", args.y, TransposedShape(args.x.shape, args.perm), "(x permuted)");
  rules.SameType("y", args.y, "x", args.x.dtype);
}

void Check(const SplitColumnsArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Rank("x", args.x, 2, "(rows, columns)");
  Copied(rules, "x", args.x);
  CheckSizes(rules, args.sizes);
  LORA_CHECK(ColumnsOf(args.sizes) == args.x.dim(1), rules.op(), "expected sizes of ",
             args.x.dim(1), " columns in all (the last dimension of x) but received ",
             ColumnsOf(args.sizes));
  rules.Count("parts", args.parts.size(), args.sizes.size(), "size");
  for (size_t i = 0; i < args.parts.size(); ++i) {
    if (!args.parts[i]) continue;
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
    Copied(rules, "part", part);
    rules.SameType("part", part, "the first", joined.dtype);
  }
  rules.ShapeIs("y", args.y, joined.shape, "(rows, columns)");
  rules.SameType("y", args.y, "part", joined.dtype);
}

TakenLines LinesOf(const Shape& x, const Shape& index, int64_t dim) {
  TakenLines lines;
  for (int d = 0; d < x.rank(); ++d) {
    if (d < dim) lines.outer *= x[d];
    if (d == dim) lines.length = x[d];
    if (d > dim) lines.inner *= x[d];
  }
  lines.shared = index.rank() == 1;
  lines.taken = index[lines.shared ? 0 : static_cast<int>(dim)];
  return lines;
}

Shape TakenShape(const Shape& x, const Shape& index, int64_t dim) {
  if (index.rank() != 1) return index;
  Shape y;
  for (int d = 0; d < x.rank(); ++d) y.push_back(d == dim ? index[0] : x[d]);
  return y;
}

void Check(const TakeArgs& args) {
  const Rules rules(LabelOf(args));
  Copied(rules, "x", args.x);
  CheckIndex(rules, args.index, args.dim, "x", args.x.shape);
  rules.ShapeIs("y", args.y, TakenShape(args.x.shape, args.index.shape, args.dim), "(of index)");
  rules.SameType("y", args.y, "x", args.x.dtype);
}

void Check(const TakeBackwardArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Float32("dx", args.dx);
  CheckIndex(rules, args.index, args.dim, "dx", args.dx.shape);
  rules.ShapeIs("g", args.g, TakenShape(args.dx.shape, args.index.shape, args.dim), "(of index)");
  rules.SameType("g", args.g, "dx", args.dx.dtype);
}

void Check(const RowMaxArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Rank("x", args.x, 2, "(rows, elements)");
  rules.Floating("x", args.x);
  constexpr int64_t kMost = 0x7fffffff;  // the largest index
  LORA_CHECK(args.x.dim(1) >= 1 && args.x.dim(1) <= kMost, rules.op(), "expected rows of 1 to ",
             kMost, " elements but received x of shape ", args.x.shape);
  const Shape rows{args.x.dim(0)};
  for (const auto& [name, view] :
       {std::pair("max", &args.max), std::pair("log_sum", &args.log_sum)}) {
    if (!*view) continue;
    rules.ShapeIs(name, *view, rows, "(rows)");
    rules.Float32(name, *view);
  }
  if (!args.index) return;
  rules.ShapeIs("index", args.index, rows, "(rows)");
  rules.Int32("index", args.index);
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
