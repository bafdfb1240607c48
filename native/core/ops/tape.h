// Describes the elementwise ops, sums, layouts and products of the tape. See ops.h for what all ops
// share.
#pragma once

#include <cstdint>
#include <vector>

#include "core/maths/kinds.h"
#include "core/ops/describe.h"
#include "core/ops/shapes.h"

namespace lora {

// What parts of the columns of a matrix may be.
inline constexpr size_t kMaxColumnParts = 8;
inline constexpr int64_t kMaxColumns = int64_t{1} << 53;

struct JoinColumnsArgs;
// Throws where there are too many parts, or none.
Result JoinedColumns(const JoinColumnsArgs& args);

// y = a ∘ b with NumPy broadcasting; dtypes of a, b and y may differ, arithmetic is f32.
struct BinaryArgs {
  BinaryKind kind;
  TensorView a, b, y;

  static constexpr auto Describe() {
    using A = BinaryArgs;
    return OpDescription{
        "binary",
        "binary",
        Choice("kind", &A::kind, kBinaryKinds).Labels(),
        In("a", &A::a),
        In("b", &A::b),
        DTypeOf(&A::y),
        Out("y", &A::y,
            [](const A& a) {
              return Result{a.y.dtype, BroadcastShapes(LabelOf(a), a.a.shape, a.b.shape)};
            }),
    };
  }
};
void Check(const BinaryArgs&);

// y = f(x); kCopy casts, kScale multiplies by alpha, kSoftcap keeps y within ±alpha.
struct UnaryArgs {
  UnaryKind kind;
  float alpha = 1;
  TensorView x, y;

  static constexpr auto Describe() {
    using A = UnaryArgs;
    return OpDescription{
        "unary",
        "unary",
        Choice("kind", &A::kind, kUnaryKinds).Labels(),
        Number("alpha", &A::alpha),
        In("x", &A::x),
        DTypeOf(&A::y),
        Out("y", &A::y, [](const A& a) { return Result{a.y.dtype, a.x.shape}; }),
    };
  }
};
void Check(const UnaryArgs&);

struct UnaryBackwardArgs {  // dx = g·f'(x)
  UnaryKind kind;
  float alpha = 1;
  TensorView x, g, dx;

  static constexpr auto Describe() {
    using A = UnaryBackwardArgs;
    return OpDescription{
        "unary_backward",
        "unary",
        Choice("kind", &A::kind, kUnaryKinds).Labels(),
        Number("alpha", &A::alpha),
        In("x", &A::x),
        In("g", &A::g),
        Out("dx", &A::dx, Like<&A::x>),
    };
  }
};
void Check(const UnaryBackwardArgs&);

// y ← x summed over the dimensions in which y's shape has 1 (or lacks, aligned at the right) and
// x's has more. A y of shape [] is the sum of everything.
struct ReduceSumArgs {
  TensorView x, y;

  static constexpr auto Describe() {
    using A = ReduceSumArgs;
    return OpDescription{
        "reduce_sum",   "sum",          In("x", &A::x),
        ShapeOf(&A::y), DTypeOf(&A::y), Out("y", &A::y, Like<&A::y>),
    };
  }
};
void Check(const ReduceSumArgs&);

// y ← y + x, in place.
struct AccumulateArgs {
  TensorView x, y;

  static constexpr auto Describe() {
    using A = AccumulateArgs;
    return OpDescription{
        "accumulate",
        "accumulate",
        In("x", &A::x),
        InOut("y", &A::y),
    };
  }
};
void Check(const AccumulateArgs&);

struct FillArgs {
  float value = 0;
  TensorView y;

  static constexpr auto Describe() {
    using A = FillArgs;
    return OpDescription{
        "fill",
        "fill",
        Overwrite("y", &A::y),
        Number("value", &A::value).OrNaN(),
    };
  }
};
void Check(const FillArgs&);

// y[i_perm...] = x[i...]: dimension d of y is dimension perm[d] of x.
struct TransposeArgs {
  TensorView x, y;
  std::vector<int> perm;

  static constexpr auto Describe() {
    using A = TransposeArgs;
    return OpDescription{
        "transpose",
        "transpose",
        In("x", &A::x),
        Wholes("perm", &A::perm, kMaxDims),
        Out("y", &A::y,
            [](const A& a) { return Result{a.x.dtype, TransposedShape(a.x.shape, a.perm)}; }),
    };
  }
};
void Check(const TransposeArgs&);

// Parts of the columns of x that lie side by side. Elements are copied, bit for bit.
struct SplitColumnsArgs {
  TensorView x;                   // [n, Σ sizes]
  std::vector<int64_t> sizes;     // columns of each part, 1 to kMaxColumnParts of them
  std::vector<TensorView> parts;  // [n, sizes[i]], of the dtype of x, or absent

  static constexpr auto Describe() {
    using A = SplitColumnsArgs;
    return OpDescription{
        "split_columns",
        "split_columns",
        In("x", &A::x).Rows(),
        Wholes("sizes", &A::sizes, kMaxColumns),
        OutEach("parts", &A::parts, &A::sizes,
                [](const A& a, size_t i) { return Result{a.x.dtype, {a.x.dim(0), a.sizes[i]}}; })
            .Rows()
            .IfEach("wanted"),
    };
  }
};
void Check(const SplitColumnsArgs&);

// The inverse, which is its gradient: an absent part is zeros.
struct JoinColumnsArgs {
  std::vector<TensorView> parts;  // [n, sizes[i]], of one dtype; at least one is there
  std::vector<int64_t> sizes;     // of all parts
  TensorView y;                   // [n, Σ sizes]

  static constexpr auto Describe() {
    using A = JoinColumnsArgs;
    return OpDescription{
        "join_columns",
        "join_columns",
        InEach("parts", "part", &A::parts).Rows().OrNone(),
        Wholes("sizes", &A::sizes, kMaxColumns),
        Out("y", &A::y, JoinedColumns).Rows(),
    };
  }
};
void Check(const JoinColumnsArgs&);

// How an index walks a dimension of x [outer, length, inner], to which y [outer, taken, inner]
// belongs: y[o, i, j] is x[o, at, j].
struct TakenLines {
  int64_t outer = 1, length = 0, inner = 1, taken = 0;
  bool shared = false;  // at is index[i], else index[o, i, j]
};
// Defined where the dimension is one of x.
TakenLines LinesOf(const Shape& x, const Shape& index, int64_t dim);
// Returns the shape of y: that of x, with as many in `dim` as the index has.
Shape TakenShape(const Shape& x, const Shape& index, int64_t dim);

// y = x at places of one dimension, bit for bit. The index is one list for all lines of x, or has
// one for each. One outside of the dimension fails the op with ERR_DATA.
struct TakeArgs {
  TensorView x;      // any shape; not i8
  TensorView index;  // i32 [taken], or that of x but for `dim`
  int64_t dim = 0;
  TensorView y;

  static constexpr auto Describe() {
    using A = TakeArgs;
    return OpDescription{
        "take",
        "take",
        In("x", &A::x),
        In("index", &A::index),
        Whole("dim", &A::dim),
        Out("y", &A::y,
            [](const A& a) {
              return Result{a.x.dtype, TakenShape(a.x.shape, a.index.shape, a.dim)};
            }),
    };
  }
};
void Check(const TakeArgs&);

// dx += g at the places that were taken: the terms of an element in rising order of i, so that the
// bits follow from the operands alone.
struct TakeBackwardArgs {
  TensorView g;      // f32, the shape of y
  TensorView index;  // i32
  int64_t dim = 0;
  TensorView dx;  // f32, the shape of x

  static constexpr auto Describe() {
    using A = TakeBackwardArgs;
    return OpDescription{
        "take_backward",     "take", In("g", &A::g), In("index", &A::index), Whole("dim", &A::dim),
        InOut("dx", &A::dx),
    };
  }
};
void Check(const TakeBackwardArgs&);

// Of each row of x its largest element, which is the first NaN where there is one, where that is,
// of equal ones the first, and ln Σ exp(x − max). softmax(x) = exp(x − max − log_sum).
struct RowMaxArgs {
  TensorView x;        // [n, d], d at least 1
  TensorView max;      // [n] f32, or absent
  TensorView index;    // [n] i32, or absent
  TensorView log_sum;  // [n] f32, or absent

  static constexpr auto Describe() {
    using A = RowMaxArgs;
    return OpDescription{
        "row_max",
        "row_max",
        In("x", &A::x).Rows(),
        Out("max", &A::max, [](const A& a) { return F32Result({a.x.dim(0)}); }).If("wantMax"),
        Out("index", &A::index, [](const A& a) { return Result{DType::kI32, {a.x.dim(0)}}; })
            .If("wantIndex"),
        Out("logSum", &A::log_sum, [](const A& a) { return F32Result({a.x.dim(0)}); })
            .If("wantLogSum"),
    };
  }
};
void Check(const RowMaxArgs&);

// y = a·b over the last two dimensions; a [.., m, k] (or [.., k, m] with trans_a), b [.., k, n] (or
// [.., n, k] with trans_b); leading dimensions broadcast. f32 accumulation, one rounding.
struct MatmulArgs {
  TensorView a, b, y;
  bool trans_a = false, trans_b = false;

  static constexpr auto Describe() {
    using A = MatmulArgs;
    return OpDescription{
        "matmul",
        "matmul",
        In("a", &A::a),
        In("b", &A::b),
        Flag("transA", &A::trans_a),
        Flag("transB", &A::trans_b),
        DTypeOf(&A::y),
        Out("y", &A::y,
            [](const A& a) {
              return Result{a.y.dtype, MatmulShape(a.a.shape, a.b.shape, a.trans_a, a.trans_b)};
            }),
    };
  }
};
void Check(const MatmulArgs&);

using TapeOps = OpList<BinaryArgs, UnaryArgs, UnaryBackwardArgs, ReduceSumArgs, AccumulateArgs,
                       FillArgs, TransposeArgs, SplitColumnsArgs, JoinColumnsArgs, TakeArgs,
                       TakeBackwardArgs, RowMaxArgs, MatmulArgs>;

}  // namespace lora
