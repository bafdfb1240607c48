// matmul on the CPU against sums in double: whole numbers, so that results are exact.
#include "backend/cpu/matmul.h"

#include <doctest/doctest.h>

#include "backend/cpu/context.h"
#include "test/support/close.h"
#include "test/support/run.h"
#include "test/support/simd_targets.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<MatmulArgs> kMatmul = {cpu::MatmulScratchBytes, cpu::Matmul};

struct Case {
  Shape a, b, y;
  bool trans_a = false, trans_b = false;
};

std::vector<Case> Cases() {
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
  };
}

// Matrix `index` of y reads this matrix of an operand of shape `s`.
int64_t Matrix(const Shape& s, const Shape& y, int64_t index) {
  int64_t matrix = 0, step = 1;
  for (int d = y.rank() - 3, e = s.rank() - 3; e >= 0; --d, --e) {
    int64_t inner = 1;
    for (int i = d + 1; i < y.rank() - 2; ++i) inner *= y[i];
    if (s[e] != 1) matrix += index / inner % y[d] * step;
    step *= s[e];
  }
  return matrix;
}

Tensor Expected(const Case& c, const Tensor& a, const Tensor& b, DType dtype) {
  Tensor y(dtype, c.y);
  const int64_t m = c.y[-2], n = c.y[-1], k = c.a[c.trans_a ? -2 : -1];
  for (int64_t i = 0; i < y.numel(); ++i) {
    const int64_t index = i / (m * n), row = i / n % m, column = i % n;
    const int64_t a0 = Matrix(c.a, c.y, index) * m * k, b0 = Matrix(c.b, c.y, index) * k * n;
    double sum = 0;
    for (int64_t l = 0; l < k; ++l) {
      sum += a.at(a0 + (c.trans_a ? l * m + row : row * k + l)) *
             b.at(b0 + (c.trans_b ? column * k + l : l * n + column));
    }
    y.Set(i, sum);
  }
  return y;
}

TEST_CASE("matmul: shapes, transposes and broadcasting") {
  for (const int threads : {1, 2, 3}) {
    cpu::CpuContext context(threads);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const Case& c : Cases()) {
        const std::string name = Text(c.a) + " " + Text(c.b);
        CAPTURE(name);
        const Tensor a = Integers(dtype, c.a, 1), b = Integers(dtype, c.b, 2);
        const Tensor expected = Expected(c, a, b, dtype);
        ForEachSimdTarget([&] {
          const Tensor y(dtype, c.y);
          Run(kMatmul, MatmulArgs{a, b, y, c.trans_a, c.trans_b}, context);
          CHECK(y.intact());
          CHECK_IDENTICAL(y, expected);
        });
      }
    }
  }
}

TEST_CASE("matmul: dtypes may be mixed") {
  cpu::CpuContext context(2);
  const DType dtypes[] = {DType::kF32, DType::kBF16, DType::kF16};
  const Case c = {{9, 33}, {33, 18}, {9, 18}};
  for (const DType da : dtypes) {
    for (const DType db : dtypes) {
      for (const DType dy : dtypes) {
        const std::string name = std::string(NameOf(da)) + " " + NameOf(db) + " " + NameOf(dy);
        CAPTURE(name);
        const Tensor a = Integers(da, c.a, 1), b = Integers(db, c.b, 2);
        const Tensor y(dy, c.y);
        const MatmulArgs args{a, b, y, false, false};
        std::vector<std::byte> scratch(cpu::MatmulScratchBytes(args, 2));
        cpu::Matmul(args, scratch, context);
        CHECK_IDENTICAL(y, Expected(c, a, b, dy));
      }
    }
  }
}

}  // namespace
}  // namespace lora::test
