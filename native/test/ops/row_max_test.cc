#include <cmath>
#include <vector>

#include "test/support/tested.h"

namespace lora::test {
namespace {

struct Maxima {
  Tensor max, index, log_sum;
  explicit Maxima(int64_t rows)
      : max(DType::kF32, {rows}), index(DType::kI32, {rows}), log_sum(DType::kF32, {rows}) {}
};

// ln Σ exp is off by the roundings of the differences, weighted by their exponentials, of the
// exponentials, and of the sum in chains of d / 16 additions at most; then by its own.
std::vector<double> LogSumBounds(const Tensor& x, const Maxima& expected) {
  std::vector<double> bounds;
  const int64_t d = x.shape()[1];
  for (int64_t row = 0; row < x.shape()[0]; ++row) {
    const double max = expected.max.at(row), log_sum = expected.log_sum.at(row);
    double moved = 0;
    for (int64_t i = 0; i < d; ++i) {
      const double difference = x.at(row * d + i) - max;
      moved += std::exp(difference - log_sum) * std::fabs(difference);
    }
    bounds.push_back(kU * (moved + 4 + static_cast<double>(d) / 16 + 8 + std::fabs(log_sum)));
  }
  return bounds;
}

void CheckRows(const Tensor& x) {
  const int64_t rows = x.shape()[0];
  const Maxima expected(rows);
  Run(ReferenceBackend(), RowMaxArgs{x, expected.max, expected.index, expected.log_sum});
  OnEveryPath(
      [&](Context& context) {
        const Maxima all(rows), one(rows);
        RunTested(RowMaxArgs{x, all.max, all.index, all.log_sum}, context);
        RunTested(RowMaxArgs{x, {}, one.index, {}}, context);
        RunTested(RowMaxArgs{x, one.max, {}, {}}, context);
        RunTested(RowMaxArgs{x, {}, {}, one.log_sum}, context);
        return std::vector<Tensor>{all.max, all.index, all.log_sum,
                                   one.max, one.index, one.log_sum};
      },
      [&](const std::vector<Tensor>& made) {
        CHECK_CLOSE(made[0], expected.max, Tolerance{});  // 0 and −0 are equal
        CHECK_IDENTICAL(made[1], expected.index);
        CHECK_CLOSE(made[2], expected.log_sum, LogSumBounds(x, expected));
        for (size_t i = 0; i < 3; ++i) CHECK_IDENTICAL(made[i + 3], made[i]);
      });
}

TEST_CASE("row_max: rows of every width and dtype") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t d : {1, 2, 3, 7, 8, 9, 31, 64, 65, 511, 513, 2048, 2049, 5000}) {
      CAPTURE(NameOf(dtype));
      CAPTURE(d);
      CheckRows(Normal(dtype, {3, d}, static_cast<uint64_t>(d), 2, 5));
    }
    CheckRows(Normal(dtype, {0, 4}, 1));
    CheckRows(Normal(dtype, {Tested().emulated ? 19 : 700, 77}, 1, 3));
  }
}

TEST_CASE("row_max: the first of equal ones, wherever they are") {
  for (const int64_t d : {1, 5, 100, 1500, 4000}) {
    for (const int64_t first : {int64_t{0}, d / 3, d - 1}) {
      CAPTURE(d);
      CAPTURE(first);
      Tensor x = Full(DType::kF32, {2, d}, -3);
      for (int64_t i = first; i < d; i += 7) x.Set(i, 0.25);
      x.Set(first, first % 2 == 0 ? 0.25 : 0.25f);
      for (int64_t i = first; i < d; ++i) x.Set(d + i, i % 2 == 0 ? 0.0 : -0.0);  // which are equal
      CheckRows(x);
    }
  }
}

TEST_CASE("row_max: infinities, and the first NaN above them") {
  const double inf = INFINITY, nan = std::nan("");
  for (const int64_t d : {4, 40, 700, 3000}) {
    CAPTURE(d);
    Tensor x = Normal(DType::kF32, {6, d}, 1);
    x.Set(2, inf);
    for (int64_t i = 0; i < d; ++i) x.Set(d + i, -inf);
    x.Set(2 * d + 1, -inf);
    x.Set(3 * d, inf);
    x.Set(4 * d - 1, nan);
    x.Set(4 * d + d / 2, nan);
    x.Set(5 * d - 1, nan);
    for (int64_t i = 0; i < d; ++i) x.Set(5 * d + i, nan);
    const std::vector<double> places = {
        2, 0, -1, static_cast<double>(d - 1), static_cast<double>(d / 2), 0};
    OnEveryPath(
        [&](Context& context) {
          const Maxima all(6);
          RunTested(RowMaxArgs{x, all.max, all.index, all.log_sum}, context);
          return std::vector<Tensor>{all.max, all.index, all.log_sum};
        },
        [&](const std::vector<Tensor>& made) {
          for (int64_t row = 0; row < 6; ++row) {
            CAPTURE(row);
            const size_t at = static_cast<size_t>(row);
            if (row != 2) CHECK(made[1].at(row) == places[at]);
            CHECK(std::isnan(made[0].at(row)) == (row > 2));
            CHECK(std::isnan(made[2].at(row)) == (row != 2));  // ∞ − ∞
          }
          CHECK(made[0].at(0) == inf);
          CHECK(made[0].at(1) == -inf);
        });
  }
}

}  // namespace
}  // namespace lora::test
