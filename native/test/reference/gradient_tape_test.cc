// Holds the gradients of the ops of the tape against central differences. Where the tape composes a
// gradient of other ops (broadcasts, products, transposes), so does the test.
#include "test/reference/reference.h"
#include "test/support/gradient.h"
#include "test/support/run.h"

namespace lora::test {
namespace {

Tensor Apply(BinaryKind kind, const Tensor& a, const Tensor& b, const Shape& shape) {
  Tensor y(kF64, shape);
  Run(kReference, BinaryArgs{kind, a, b, y});
  return y;
}

Tensor SumTo(const Tensor& x, const Shape& shape) {
  Tensor y(kF64, shape);
  Run(kReference, ReduceSumArgs{x, y});
  return y;
}

Tensor Negated(const Tensor& x) {
  Tensor y(kF64, x.shape());
  Run(kReference, UnaryArgs{UnaryKind::kScale, -1, x, y});
  return y;
}

struct Gradients {
  Tensor a, b;
};
// Returns the gradients of a ∘ b, each summed back to its operand's shape.
Gradients BinaryGradients(BinaryKind kind, const Tensor& a, const Tensor& b, const Tensor& g) {
  const Shape& shape = g.shape();
  const auto times = [&](const Tensor& x, const Tensor& y) {
    return Apply(BinaryKind::kMul, x, y, shape);
  };
  const auto over = [&](const Tensor& x, const Tensor& y) {
    return Apply(BinaryKind::kDiv, x, y, shape);
  };
  switch (kind) {
    case BinaryKind::kAdd:
      return {SumTo(g, a.shape()), SumTo(g, b.shape())};
    case BinaryKind::kSub:
      return {SumTo(g, a.shape()), SumTo(Negated(g), b.shape())};
    case BinaryKind::kMul:
      return {SumTo(times(g, b), a.shape()), SumTo(times(g, a), b.shape())};
    case BinaryKind::kDiv:
      return {SumTo(over(g, b), a.shape()),
              SumTo(Negated(over(over(times(g, a), b), b)), b.shape())};
    case BinaryKind::kMaximum:
    case BinaryKind::kMinimum: {
      const bool maximum = kind == BinaryKind::kMaximum;
      const Tensor less = Apply(BinaryKind::kLess, a, b, shape);
      const Tensor is_b = Apply(BinaryKind::kWhere, g, less, shape);
      const Tensor is_a = Apply(BinaryKind::kWhereNot, g, less, shape);
      return {SumTo(maximum ? is_a : is_b, a.shape()), SumTo(maximum ? is_b : is_a, b.shape())};
    }
    case BinaryKind::kLess:
    case BinaryKind::kEqual:
      return {Zeros(kF64, a.shape()), Zeros(kF64, b.shape())};
    case BinaryKind::kWhere:
    case BinaryKind::kWhereNot:
      return {SumTo(Apply(kind, g, b, shape), a.shape()), Zeros(kF64, b.shape())};
    case BinaryKind::kPow: {
      const Tensor one = Full(kF64, {}, 1), y = Apply(kind, a, b, shape), ln(kF64, a.shape());
      const Tensor less = Apply(BinaryKind::kSub, b, one, b.shape());
      Run(kReference, UnaryArgs{UnaryKind::kLogarithm, 1, a, ln});
      return {SumTo(times(times(g, b), Apply(kind, a, less, shape)), a.shape()),
              SumTo(times(times(g, y), ln), b.shape())};
    }
  }
  return {};
}

TEST_CASE("binary ops with broadcasting, and reduce_sum as their gradient") {
  struct Case {
    Shape a, b, y;
  };
  const std::vector<Case> cases = {
      {{2, 3}, {2, 3}, {2, 3}},
      {{2, 3}, {3}, {2, 3}},
      {{2, 1, 3}, {4, 1}, {2, 4, 3}},
      {{}, {2, 2}, {2, 2}},
      {{1, 1}, {2, 3, 2}, {2, 3, 2}},
      {{3, 1}, {1, 3}, {3, 3}},
      {{2, 1, 2, 1}, {3, 1, 2}, {2, 3, 2, 2}},
  };
  for (const Case& c : cases) {
    for (const BinaryKind kind : EachKind<BinaryKind>(kBinaryKinds)) {
      CAPTURE(Text(c.a));
      CAPTURE(Text(c.b));
      CAPTURE(static_cast<int>(kind));
      const bool positive = kind == BinaryKind::kPow;
      Tensor a = positive ? Uniform(kF64, c.a, 1, 0.5, 2) : Normal(kF64, c.a, 1);
      Tensor b = Uniform(kF64, c.b, 2, 0.5, 2);
      const Tensor g = Normal(kF64, c.y, 3);
      const auto loss = [&] { return Project(Apply(kind, a, b, c.y), g); };
      const Gradients gradients = BinaryGradients(kind, a, b, g);
      CheckGradient("a", a, gradients.a, loss);
      CheckGradient("b", b, gradients.b, loss);
    }
  }
}

TEST_CASE("reduce_sum: a broadcast is its gradient") {
  for (const Shape& to : {Shape{}, Shape{4}, Shape{3, 1}, Shape{2, 1, 4}, Shape{1, 1, 1}}) {
    CAPTURE(Text(to));
    Tensor x = Normal(kF64, {2, 3, 4}, 1);
    const Tensor g = Normal(kF64, to, 2);
    const Tensor gradient = Apply(BinaryKind::kAdd, g, Zeros(kF64, {2, 3, 4}), {2, 3, 4});
    CheckGradient("x", x, gradient, [&] { return Project(SumTo(x, to), g); });
  }
}

TEST_CASE("unary ops: dx is the gradient of y") {
  for (const UnaryKind kind : EachKind<UnaryKind>(kUnaryKinds)) {
    CAPTURE(static_cast<int>(kind));
    // No input lies within a step of 0, where relu has a corner.
    Tensor x = Of(kF64, {10}, {-6, -3.1, -1.5, -0.7, -0.1, 0.2, 0.9, 1.7, 2.9, 5});
    if (kind == UnaryKind::kSqrt || kind == UnaryKind::kLogarithm)
      x = Of(kF64, {10}, {6, 3.1, 1.5, 0.7, 0.1, 0.2, 0.9, 1.7, 2.9, 5});
    const Tensor g = Normal(kF64, {10}, 2), y(kF64, {10}), dx(kF64, {10});
    Run(kReference, UnaryBackwardArgs{kind, -1.5f, x, g, dx});
    CheckGradient("dx", x, dx, [&] {
      Run(kReference, UnaryArgs{kind, -1.5f, x, y});
      return Project(y, g);
    });
  }
}

TEST_CASE("matmul: products of g with the other operand are its gradients") {
  struct Case {
    Shape a, b, y;  // a [.., m, k] and b [.., k, n], before any transposition
  };
  const std::vector<Case> cases = {
      {{3, 4}, {4, 2}, {3, 2}},
      {{2, 3, 4}, {2, 4, 2}, {2, 3, 2}},
      {{2, 1, 3, 2}, {3, 2, 2}, {2, 3, 3, 2}},
      {{3, 2, 1}, {1, 4}, {3, 2, 4}},
  };
  const auto swapped = [](const Shape& shape) {
    Shape s;
    for (int d = 0; d < shape.rank() - 2; ++d) s.push_back(shape[d]);
    s.push_back(shape[-1]);
    s.push_back(shape[-2]);
    return s;
  };
  for (const Case& c : cases) {
    for (const int transposed : {0, 1, 2, 3}) {
      const bool ta = transposed & 1, tb = transposed & 2;
      CAPTURE(Text(c.a));
      CAPTURE(transposed);
      Tensor a = Normal(kF64, ta ? swapped(c.a) : c.a, 1);
      Tensor b = Normal(kF64, tb ? swapped(c.b) : c.b, 2);
      const Tensor g = Normal(kF64, c.y, 3), y(kF64, c.y);
      // A product of the batch shape of y, then summed to `shape`.
      const auto product = [&](const Tensor& left, const Tensor& right, bool tl, bool tr,
                               const Shape& shape) {
        Shape full;
        for (int d = 0; d < c.y.rank() - 2; ++d) full.push_back(c.y[d]);
        full.push_back(shape[-2]);
        full.push_back(shape[-1]);
        Tensor out(kF64, full);
        Run(kReference, MatmulArgs{left, right, out, tl, tr});
        return SumTo(out, shape);
      };
      // da = g·bᵀ and db = aᵀ·g, or their transposes.
      const Tensor da =
          ta ? product(b, g, tb, true, a.shape()) : product(g, b, false, !tb, a.shape());
      const Tensor db =
          tb ? product(g, a, true, ta, b.shape()) : product(a, g, !ta, false, b.shape());
      const auto loss = [&] {
        Run(kReference, MatmulArgs{a, b, y, ta, tb});
        return Project(y, g);
      };
      CheckGradient("a", a, da, loss);
      CheckGradient("b", b, db, loss);
    }
  }
}

TEST_CASE("transpose: the inverse permutation is its gradient") {
  Tensor x = Normal(kF64, {2, 3, 4}, 1);
  const Tensor g = Normal(kF64, {4, 2, 3}, 2), y(kF64, {4, 2, 3}), dx(kF64, {2, 3, 4});
  Run(kReference, TransposeArgs{g, dx, {1, 2, 0}});
  CheckGradient("x", x, dx, [&] {
    Run(kReference, TransposeArgs{x, y, {2, 0, 1}});
    return Project(y, g);
  });
}

TEST_CASE("take: what take_backward adds is its gradient") {
  struct Case {
    Shape x;
    int64_t dim;
    Tensor index;
    Shape y;
  };
  const std::vector<Case> cases = {
      {{4, 3}, 0, Ints({5}, {3, 0, 3, 2, 3}), {5, 3}},
      {{2, 4, 3}, 1, Ints({2}, {1, 1}), {2, 2, 3}},
      {{2, 4}, 1, Ints({2, 3}, {0, 3, 0, 2, 2, 1}), {2, 3}},
      {{3, 2}, 0, Ints({2, 2}, {0, 2, 0, 1}), {2, 2}},
      {{5}, 0, Ints({3}, {4, 4, 1}), {3}},
  };
  for (const Case& c : cases) {
    CAPTURE(Text(c.x));
    CAPTURE(c.dim);
    Tensor x = Normal(kF64, c.x, 1);
    const Tensor g = Normal(kF64, c.y, 2), y(kF64, c.y), dx = Zeros(kF64, c.x);
    Run(kReference, TakeBackwardArgs{g, c.index, c.dim, dx});
    CheckGradient("x", x, dx, [&] {
      Run(kReference, TakeArgs{x, c.index, c.dim, y});
      return Project(y, g);
    });
  }
}

// softmax = exp(x − max − log_sum), and its logarithm, with the gradients that the tape composes.
TEST_CASE("row_max: softmax and log softmax made of it have the gradients of the tape") {
  const Shape shape{3, 5}, rows{3, 1};
  Tensor x = Normal(kF64, shape, 1);
  const Tensor g = Normal(kF64, shape, 2);
  const auto unary = [](UnaryKind kind, const Tensor& of) {
    Tensor y(kF64, of.shape());
    Run(kReference, UnaryArgs{kind, 1, of, y});
    return y;
  };
  const auto log_softmax = [&] {
    const Tensor max(kF64, {3}), log_sum(kF64, {3});
    Run(kReference, RowMaxArgs{x, max, {}, log_sum});
    const auto column = [&](const Tensor& of) { return Of(kF64, rows, of.Values()); };
    const Tensor centered = Apply(BinaryKind::kSub, x, column(max), shape);
    return Apply(BinaryKind::kSub, centered, column(log_sum), shape);
  };
  const auto softmax = [&] { return unary(UnaryKind::kExponential, log_softmax()); };
  const auto times = [&](const Tensor& a, const Tensor& b) {
    return Apply(BinaryKind::kMul, a, b, shape);
  };
  const auto minus = [&](const Tensor& a, const Tensor& b) {
    return Apply(BinaryKind::kSub, a, b, shape);
  };
  const Tensor y = softmax();
  CheckGradient("x", x, times(y, minus(g, SumTo(times(g, y), rows))),
                [&] { return Project(softmax(), g); });
  CheckGradient("x", x, minus(g, times(y, SumTo(g, rows))),
                [&] { return Project(log_softmax(), g); });
}

TEST_CASE("split_columns: the joined parts are its gradient") {
  Tensor x = Normal(kF64, {3, 6}, 1);
  const Tensor g = Normal(kF64, {3, 2}, 2), dx(kF64, {3, 6});
  const Tensor a(kF64, {3, 1}), b(kF64, {3, 2}), c(kF64, {3, 3});
  const std::vector<int64_t> sizes = {1, 2, 3};
  Run(kReference, JoinColumnsArgs{{{}, g, {}}, sizes, dx});
  CheckGradient("x", x, dx, [&] {
    Run(kReference, SplitColumnsArgs{x, sizes, {a, b, c}});
    return Project(b, g);
  });
}

}  // namespace
}  // namespace lora::test
