#include <cmath>
#include <limits>
#include <vector>

#include "test/support/tested.h"

namespace lora::test {
namespace {

struct ReduceSumCase {
  Shape x, y;
};

// Reduces leading and trailing dimensions, and some between.
std::vector<ReduceSumCase> ReduceSumCases() {
  return {
      {{7, 65}, {65}},
      {{7, 65}, {7, 1}},
      {{7, 65}, {1, 65}},
      {{3, 5, 17}, {5, 1}},
      {{3, 5, 17}, {3, 1, 17}},
      {{3, 5, 17}, {1, 5, 1}},
      {{2, 3, 4, 5}, {3, 1, 5}},
      {{2, 3, 4, 5}, {2, 1, 4, 1}},
      {{1, 1, 9}, {1}},
      {{4, 9}, {4, 9}},
      {{0, 3}, {3}},
      {{0, 3}, {}},
      {{3, 0}, {3, 1}},
      {{3, 0}, {1, 0}},
      {{5, 1}, {5, 1}},
      {{300, 513}, {513}},
      {{300, 513}, {300, 1}},
      {{3, 40000}, {3, 1}},
      {{2, 3, 20011}, {3, 1}},
      {{1, 1, 2, 1, 3, 1, 2, 2}, {3, 1, 1, 2}},
      // Columns that a GPU splits, and a block per sum.
      {{1000, 3}, {3}},
      {{2, 700, 72}, {2, 1, 72}},
      {{50, 9000}, {50, 1}},
  };
}

// The CPU's chains have at most 512 / 16 additions, then comes a tree.
std::vector<double> ReduceSumBounds(const Tensor& x, const Tensor& expected) {
  Tensor magnitudes = x.As(DType::kF64);
  for (int64_t i = 0; i < x.numel(); ++i) magnitudes.Set(i, std::fabs(x.at(i)));
  const Tensor total(DType::kF64, expected.shape());
  Run(ReferenceBackend(), ReduceSumArgs{magnitudes, total});
  std::vector<double> bounds;
  for (int64_t i = 0; i < expected.numel(); ++i)
    bounds.push_back(40 * kU * total.at(i) + RoundingBound(expected.dtype(), expected.at(i)));
  return bounds;
}

// Large terms cancel and leave 2048 ones, which a single f32 chain would lose beside 2²⁵.
Tensor CancellingTerms() {
  Tensor x = Full(DType::kF32, {4096}, 1);
  for (int64_t block = 0; block < 4; ++block) {
    for (int64_t i = 0; i < 512; ++i)
      x.Set(block * 1024 + i, block % 2 == 0 ? 33554432 : -33554432);
  }
  return x;
}

void CheckCase(const Tensor& x, const Shape& shape, DType to) {
  CAPTURE(Text(x.shape()));
  CAPTURE(Text(shape));
  CAPTURE(NameOf(x.dtype()));
  CAPTURE(NameOf(to));
  const Tensor expected(to, shape);
  Run(ReferenceBackend(), ReduceSumArgs{x, expected});
  const std::vector<double> bounds = ReduceSumBounds(x, expected);
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(to, shape)};
        RunTested(ReduceSumArgs{x, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], expected, bounds); });
}

TEST_CASE("reduce_sum: everything, of every size") {
  for (const int64_t n : Tested().sizes) CheckCase(Normal(DType::kF32, {n}, 1), {}, DType::kF32);
  CheckCase(Normal(DType::kF32, {100003}, 1), {}, DType::kF32);
  CheckCase(Normal(DType::kBF16, {500009}, 1), {}, DType::kF32);  // more than 16 splits of a GPU
  CheckCase(Normal(DType::kF32, {}, 1), {}, DType::kF32);
  CheckCase(Normal(DType::kBF16, {3, 1001}, 1), {}, DType::kF32);
  CheckCase(Normal(DType::kF16, {3, 1001}, 1), {1, 1}, DType::kF32);
}

TEST_CASE("reduce_sum: some dimensions, leading, trailing and between") {
  for (const ReduceSumCase& c : ReduceSumCases()) {
    CheckCase(Normal(DType::kF32, c.x, 2), c.y, DType::kF32);
    CheckCase(Normal(DType::kBF16, c.x, 3), c.y, DType::kF32);
    CheckCase(Normal(DType::kF16, c.x, 4), c.y, DType::kF16);
    if (c.x.numel() < 2 * Tested().many) CheckCase(Normal(DType::kBF16, c.x, 4), c.y, DType::kBF16);
  }
}

TEST_CASE("reduce_sum: large terms that cancel leave the small ones") {
  const Tensor x = CancellingTerms();
  Tensor columns(DType::kF32, {4096, 3});
  for (int64_t i = 0; i < columns.numel(); ++i) columns.Set(i, x.at(i / 3));
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(DType::kF32, {}), Tensor(DType::kF32, {1}),
                                 Tensor(DType::kF32, {3})};
        RunTested(ReduceSumArgs{x, y[0]}, context);
        const TensorView column(x.view().data, DType::kF32, {4096, 1});
        RunTested(ReduceSumArgs{column, y[1]}, context);
        RunTested(ReduceSumArgs{columns, y[2]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) {
        CHECK(y[0].at(0) == 2048);
        CHECK(y[1].at(0) == 2048);
        CHECK_IDENTICAL(y[2], Full(DType::kF32, {3}, 2048));
      });
}

TEST_CASE("reduce_sum: infinities and NaN come through") {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const int64_t n : {5, 9000}) {
    Tensor x = Full(DType::kF32, {3, n}, 1);
    x.Set(1, kInfinity);
    x.Set(n + 2, -kInfinity);
    x.Set(2 * n + 3, std::nan(""));
    OnEveryPath(
        [&](Context& context) {
          std::vector<Tensor> y = {Tensor(DType::kF32, {3, 1})};
          RunTested(ReduceSumArgs{x, y[0]}, context);
          return y;
        },
        [&](const std::vector<Tensor>& y) {
          CHECK(y[0].at(0) == kInfinity);
          CHECK(y[0].at(1) == -kInfinity);
          CHECK(std::isnan(y[0].at(2)));
        });
  }
}

}  // namespace
}  // namespace lora::test
