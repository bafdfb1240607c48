// Multiplies whole numbers where it can, so that results are exact.
#include <algorithm>
#include <cmath>
#include <vector>

#include "test/support/tested.h"

namespace lora::test {
namespace {

struct MatmulCase {
  Shape a, b, y;
  bool trans_a = false, trans_b = false;
};

std::vector<MatmulCase> MatmulCases() {
  return {
      {{1, 1}, {1, 1}, {1, 1}},
      {{3, 5}, {5, 7}, {3, 7}},
      {{0, 5}, {5, 7}, {0, 7}},
      {{3, 0}, {0, 7}, {3, 7}},
      {{33, 70}, {70, 65}, {33, 65}},
      {{70, 33}, {70, 65}, {33, 65}, true, false},
      {{33, 70}, {65, 70}, {33, 65}, false, true},
      {{70, 33}, {65, 70}, {33, 65}, true, true},
      {{6, 4, 9}, {6, 9, 5}, {6, 4, 5}},
      {{4, 9}, {6, 9, 5}, {6, 4, 5}},
      {{6, 4, 9}, {9, 5}, {6, 4, 5}},
      {{2, 1, 4, 9}, {3, 5, 9}, {2, 3, 4, 5}, false, true},
      {{2, 1, 9, 4}, {1, 3, 9, 5}, {2, 3, 4, 5}, true, false},
      {{2, 3, 9, 4}, {9, 5}, {2, 3, 4, 5}, true, false},
      {{2, 1, 2, 4, 8}, {1, 4, 1, 8, 8}, {2, 4, 2, 4, 8}},
      // Two dimensions besides the batch.
      {{2, 1, 4, 1, 3, 5}, {1, 5, 1, 2, 5, 4}, {2, 5, 4, 2, 3, 4}},
      {{2, 3, 0}, {2, 0, 4}, {2, 3, 4}},
      {{3, 130, 32}, {3, 32, 72}, {3, 130, 72}},
  };
}

// Matrix `index` of y reads this matrix of an operand of shape `s`.
int64_t MatmulMatrix(const Shape& s, const Shape& y, int64_t index) {
  int64_t matrix = 0, step = 1;
  for (int d = y.rank() - 3, e = s.rank() - 3; e >= 0; --d, --e) {
    int64_t inner = 1;
    for (int i = d + 1; i < y.rank() - 2; ++i) inner *= y[i];
    if (s[e] != 1) matrix += index / inner % y[d] * step;
    step *= s[e];
  }
  return matrix;
}

Tensor MatmulExpected(const MatmulCase& c, const Tensor& a, const Tensor& b, DType dtype) {
  Tensor y(dtype, c.y);
  const int64_t m = c.y[-2], n = c.y[-1], k = c.a[c.trans_a ? -2 : -1];
  for (int64_t i = 0; i < y.numel(); ++i) {
    const int64_t index = i / (m * n), row = i / n % m, column = i % n;
    const int64_t a0 = MatmulMatrix(c.a, c.y, index) * m * k;
    const int64_t b0 = MatmulMatrix(c.b, c.y, index) * k * n;
    double sum = 0;
    for (int64_t l = 0; l < k; ++l) {
      sum += a.at(a0 + (c.trans_a ? l * m + row : row * k + l)) *
             b.at(b0 + (c.trans_b ? column * k + l : l * n + column));
    }
    y.Set(i, sum);
  }
  return y;
}

std::vector<Tensor> Multiply(const MatmulCase& c, const Tensor& a, const Tensor& b, DType to,
                             Context& context) {
  std::vector<Tensor> y = {Tensor(to, c.y)};
  RunTested(MatmulArgs{a, b, y[0], c.trans_a, c.trans_b}, context);
  return y;
}

void CheckExact(const MatmulCase& c, DType da, DType db, DType dy) {
  CAPTURE(Text(c.a));
  CAPTURE(Text(c.b));
  CAPTURE(NameOf(da));
  CAPTURE(NameOf(db));
  CAPTURE(NameOf(dy));
  const Tensor a = Integers(da, c.a, 1), b = Integers(db, c.b, 2);
  const Tensor expected = MatmulExpected(c, a, b, dy);
  OnEveryPath([&](Context& context) { return Multiply(c, a, b, dy, context); },
              [&](const std::vector<Tensor>& y) { CHECK_IDENTICAL(y[0], expected); });
}

TEST_CASE("matmul: shapes, transposes and broadcasting, whole numbers exact") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
    for (const MatmulCase& c : MatmulCases()) CheckExact(c, dtype, dtype, dtype);
}

TEST_CASE("matmul: dtypes may be mixed") {
  const DType dtypes[] = {DType::kF32, DType::kBF16, DType::kF16};
  for (const DType da : dtypes)
    for (const DType db : dtypes)
      for (const DType dy : dtypes) CheckExact({{9, 33}, {33, 18}, {9, 18}}, da, db, dy);
}

TEST_CASE("matmul: products of any numbers stay within the bound of f32 accumulation") {
  const MatmulCase cases[] = {{{2, 33, 301}, {2, 301, 45}, {2, 33, 45}},
                              {{5, 600}, {40, 600}, {5, 40}, false, true}};
  for (const MatmulCase& c : cases) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      CAPTURE(Text(c.a));
      CAPTURE(NameOf(dtype));
      const Tensor a = Normal(dtype, c.a, 1), b = Normal(dtype, c.b, 2);
      const Tensor expected = MatmulExpected(c, a, b, DType::kF64);
      const auto sums_of = [&](double (*change)(double)) {
        Tensor changed_a = a.As(DType::kF64), changed_b = b.As(DType::kF64);
        for (int64_t i = 0; i < a.numel(); ++i) changed_a.Set(i, change(a.at(i)));
        for (int64_t i = 0; i < b.numel(); ++i) changed_b.Set(i, change(b.at(i)));
        return MatmulExpected(c, changed_a, changed_b, DType::kF64);
      };
      const Tensor terms = sums_of(std::fabs), squares = sums_of([](double x) { return x * x; });
      // The errors of a chain of k additions do not all point the same way; on tensor cores partial
      // sums do not either.
      const double chain = 4 * std::sqrt(static_cast<double>(c.a[-1])) * kU;
      const bool tensor_cores = dtype != DType::kF32 && Tested().tensor_cores;
      std::vector<double> bounds;
      for (int64_t i = 0; i < expected.numel(); ++i) {
        const double sum = tensor_cores ? TensorCoreError(c.a[-1]) *
                                              std::min(terms.at(i), 4 * std::sqrt(squares.at(i)))
                                        : chain * terms.at(i);
        bounds.push_back(sum + RoundingBound(dtype, expected.at(i)));
      }
      OnEveryPath([&](Context& context) { return Multiply(c, a, b, dtype, context); },
                  [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], expected, bounds); });
    }
  }
}

}  // namespace
}  // namespace lora::test
