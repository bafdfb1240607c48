// matmul: the cases of every backend, with whole numbers, so that results are exact.
#pragma once

#include <vector>

#include "test/support/tensors.h"

namespace lora::test {

struct MatmulCase {
  Shape a, b, y;
  bool trans_a = false, trans_b = false;
};

inline std::vector<MatmulCase> MatmulCases() {
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
inline int64_t MatmulMatrix(const Shape& s, const Shape& y, int64_t index) {
  int64_t matrix = 0, step = 1;
  for (int d = y.rank() - 3, e = s.rank() - 3; e >= 0; --d, --e) {
    int64_t inner = 1;
    for (int i = d + 1; i < y.rank() - 2; ++i) inner *= y[i];
    if (s[e] != 1) matrix += index / inner % y[d] * step;
    step *= s[e];
  }
  return matrix;
}

inline Tensor MatmulExpected(const MatmulCase& c, const Tensor& a, const Tensor& b, DType dtype) {
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

}  // namespace lora::test
