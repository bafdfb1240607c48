#include <cmath>
#include <iterator>
#include <utility>
#include <vector>

#include "core/ops/shapes.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

const std::vector<BinaryKind> kKinds = EachKind<BinaryKind>(kBinaryKinds);

// Returns numbers away from 0, for kDiv.
Tensor Operand(DType dtype, Shape shape, uint64_t seed) {
  return Uniform(dtype, shape, seed, 0.5, 2);
}

// Bounds one f32 operation and the rounding to y. A power may be off by 4 ulp on a GPU.
std::vector<double> BinaryBounds(BinaryKind kind, const Tensor& expected) {
  const double steps = kind == BinaryKind::kPow ? 8 : 1;
  std::vector<double> bounds;
  for (const double e : expected.Values())
    bounds.push_back(steps * kU * std::fabs(e) + RoundingBound(expected.dtype(), e));
  return bounds;
}

std::vector<std::pair<Shape, Shape>> BroadcastCases() {
  std::vector<std::pair<Shape, Shape>> cases = {
      {{}, {}},
      {{}, {5}},
      {{700}, {1}},
      {{1}, {700}},
      {{3, 700}, {700}},
      {{700}, {3, 700}},
      {{3, 700}, {3, 1}},
      {{3, 1}, {1, 7}},
      {{2, 3, 5}, {3, 1}},
      {{2, 1, 5}, {3, 5}},
      {{2, 3, 4, 5}, {2, 1, 4, 1}},
      {{1, 4, 1, 5}, {3, 1, 6, 1}},
      {{0, 3}, {1, 3}},
      {{3, 0}, {1}},
      {{1, 1}, {1}},
      {{5, 776}, {776}},  // rows of whole vectors
      {{5, 776}, {5, 1}},
      {{1, 1, 2, 1}, {1, 2, 1, 2, 1, 2}},
  };
  const int64_t rows = Tested().many / 777 + 1;
  cases.push_back({{rows, 777}, {777}});
  cases.push_back({{rows, 777}, {rows, 1}});
  return cases;
}

void CheckCase(BinaryKind kind, const Tensor& a, const Tensor& b, DType to) {
  const Shape shape = BroadcastShapes("add", a.shape(), b.shape());
  CAPTURE(static_cast<int>(kind));
  CAPTURE(Text(a.shape()));
  CAPTURE(Text(b.shape()));
  CAPTURE(NameOf(to));
  const Tensor expected(to, shape);
  Run(ReferenceBackend(), BinaryArgs{kind, a, b, expected});
  const std::vector<double> bounds = BinaryBounds(kind, expected);
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(to, shape)};
        RunTested(BinaryArgs{kind, a, b, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], expected, bounds); });
}

TEST_CASE("binary: equal shapes of every size") {
  for (const int64_t n : Tested().sizes) {
    for (const BinaryKind kind : kKinds)
      CheckCase(kind, Operand(DType::kF32, {n}, 1), Operand(DType::kF32, {n}, 2), DType::kF32);
    for (const DType dtype : {DType::kBF16, DType::kF16})
      CheckCase(BinaryKind::kSub, Operand(dtype, {n}, 1), Operand(dtype, {n}, 2), dtype);
  }
}

TEST_CASE("binary: shapes broadcast as NumPy's do") {
  for (const auto& [a, b] : BroadcastCases()) {
    for (const BinaryKind kind : kKinds)
      CheckCase(kind, Operand(DType::kF32, a, 3), Operand(DType::kF32, b, 4), DType::kF32);
    CheckCase(BinaryKind::kMul, Operand(DType::kBF16, a, 3), Operand(DType::kF32, b, 4),
              DType::kBF16);
  }
}

TEST_CASE("binary: dtypes mix") {
  const DType types[] = {DType::kF32, DType::kBF16, DType::kF16};
  for (const DType a : types) {
    for (const DType b : types) {
      for (const DType y : types) {
        CheckCase(BinaryKind::kAdd, Operand(a, {3, 67}, 5), Operand(b, {67}, 6), y);
        for (const int64_t columns : {64, 67})
          CheckCase(BinaryKind::kDiv, Operand(a, {3, columns}, 5), Operand(b, {3, columns}, 6), y);
      }
    }
  }
}

TEST_CASE("binary: whole numbers are exact") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor a = Integers(dtype, {7, 33}, 1), b = Integers(dtype, {33}, 2);
    const Tensor expected(dtype, {7, 33});
    for (const BinaryKind kind : {BinaryKind::kAdd, BinaryKind::kSub, BinaryKind::kMul}) {
      Run(ReferenceBackend(), BinaryArgs{kind, a, b, expected});
      OnEveryPath(
          [&](Context& context) {
            std::vector<Tensor> y = {Tensor(dtype, {7, 33})};
            RunTested(BinaryArgs{kind, a, b, y[0]}, context);
            return y;
          },
          // 0 and −0 are equal.
          [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], expected, Tolerance{}); });
    }
  }
}

TEST_CASE("binary: y may be a") {
  const Tensor a = Operand(DType::kBF16, {1000}, 7), b = Operand(DType::kF32, {1000}, 8);
  const Tensor expected(DType::kBF16, {1000});
  Run(ReferenceBackend(), BinaryArgs{BinaryKind::kAdd, a, b, expected});
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> y = {a};
        RunTested(BinaryArgs{BinaryKind::kAdd, y[0], b, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) {
        CHECK_CLOSE(y[0], expected, BinaryBounds(BinaryKind::kAdd, expected));
      });
}

// Two numbers, and what each kind makes of them.
struct Ends {
  double a, b;
  double maximum, minimum, less, equal, where, where_not, pow;
};

TEST_CASE("binary: comparisons, selections and powers at the ends of their ranges") {
  const double inf = INFINITY, nan = std::nan("");
  const Ends ends[] = {
      {1, 2, 2, 1, 1, 0, 1, 0, 1},
      {2, 1, 2, 1, 0, 0, 2, 0, 2},
      {3, 3, 3, 3, 0, 1, 3, 0, 27},
      {0, -0.0, 0, 0, 0, 1, 0, 0, 1},
      {-2, 3, 3, -2, 1, 0, -2, 0, -8},
      {-2, 0.5, 0.5, -2, 1, 0, -2, 0, nan},
      {0, -1, 0, -1, 0, 0, 0, 0, inf},
      {nan, 1, nan, nan, 0, 0, nan, 0, nan},
      {1, nan, nan, nan, 0, 0, 1, 0, 1},
      {nan, 0, nan, nan, 0, 0, 0, nan, 1},
      {inf, 0, inf, 0, 0, 0, 0, inf, 1},
      {-inf, inf, inf, -inf, 1, 0, -inf, 0, inf},
      {inf, inf, inf, inf, 0, 1, inf, 0, inf},
      {10, 30, 30, 10, 1, 0, 10, 0, 1e30},
      {0.5, 120, 120, 0.5, 1, 0, 0.5, 0, 0x1p-120},
  };
  constexpr int64_t kCount = std::size(ends), kRepeats = 5;  // more than a vector
  const std::pair<BinaryKind, double Ends::*> kinds[] = {
      {BinaryKind::kMaximum, &Ends::maximum}, {BinaryKind::kMinimum, &Ends::minimum},
      {BinaryKind::kLess, &Ends::less},       {BinaryKind::kEqual, &Ends::equal},
      {BinaryKind::kWhere, &Ends::where},     {BinaryKind::kWhereNot, &Ends::where_not},
      {BinaryKind::kPow, &Ends::pow}};
  Tensor a(DType::kF32, {kRepeats * kCount}), b(DType::kF32, {kRepeats * kCount});
  for (int64_t i = 0; i < a.numel(); ++i) {
    a.Set(i, ends[i % kCount].a);
    b.Set(i, ends[i % kCount].b);
  }
  for (const auto& [kind, value] : kinds) {
    CAPTURE(static_cast<int>(kind));
    OnEveryPath(
        [&, kind = kind](Context& context) {
          std::vector<Tensor> y = {Tensor(DType::kF32, a.shape())};
          RunTested(BinaryArgs{kind, a, b, y[0]}, context);
          return y;
        },
        [&, value = value](const std::vector<Tensor>& y) {
          for (int64_t i = 0; i < a.numel(); ++i) {
            CAPTURE(a.at(i));
            CAPTURE(b.at(i));
            const double e = ends[i % kCount].*value, is = y[0].at(i);
            if (std::isnan(e)) {
              CHECK(std::isnan(is));
            } else {
              CHECK((is == e || std::fabs(is - e) <= 5e-7 * std::fabs(e)));
            }
          }
        });
  }
}

}  // namespace
}  // namespace lora::test
