#include <doctest/doctest.h>

#include "core/ops/shapes.h"
#include "test/support/binary_cases.h"
#include "test/support/cuda_paths.h"

namespace lora::test {
namespace {

void CheckCase(BinaryKind kind, const Tensor& a, const Tensor& b, DType to) {
  const Shape shape = BroadcastShapes("add", a.shape(), b.shape());
  CAPTURE(static_cast<int>(kind));
  CAPTURE(Text(a.shape()));
  CAPTURE(Text(b.shape()));
  CAPTURE(NameOf(to));
  const Tensor expected(to, shape);
  Run(ReferenceBackend(), BinaryArgs{kind, a, b, expected});
  const std::vector<double> bounds = BinaryBounds(expected);
  OnEveryCudaPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(to, shape)};
        Run(MirroredCuda(), BinaryArgs{kind, a, b, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], expected, bounds); });
}

TEST_CASE("cuda binary: equal shapes of every size") {
  for (const int64_t n : CudaSizes()) {
    for (const BinaryKind kind : kKinds)
      CheckCase(kind, Operand(DType::kF32, {n}, 1), Operand(DType::kF32, {n}, 2), DType::kF32);
    for (const DType dtype : {DType::kBF16, DType::kF16})
      CheckCase(BinaryKind::kSub, Operand(dtype, {n}, 1), Operand(dtype, {n}, 2), dtype);
  }
}

TEST_CASE("cuda binary: shapes broadcast as NumPy's do") {
  for (auto [a, b] : BroadcastCases()) {
    if (a == Shape{130, 777}) {  // fewer rows, and rows of whole vectors
      a = {5, 776};
      b = b.rank() == 1 ? Shape{776} : Shape{5, 1};
    }
    const bool small = a.numel() < 3000;
    for (const BinaryKind kind : kKinds) {
      if (small || kind == BinaryKind::kDiv)
        CheckCase(kind, Operand(DType::kF32, a, 3), Operand(DType::kF32, b, 4), DType::kF32);
    }
    CheckCase(BinaryKind::kMul, Operand(DType::kBF16, a, 3), Operand(DType::kF32, b, 4),
              DType::kBF16);
  }
}

TEST_CASE("cuda binary: dtypes mix") {
  const DType types[] = {DType::kF32, DType::kBF16, DType::kF16};
  for (const DType a : types) {
    for (const DType b : types) {
      for (const DType y : types) {
        CheckCase(BinaryKind::kAdd, Operand(a, {3, 67}, 5), Operand(b, {67}, 6), y);
        CheckCase(BinaryKind::kDiv, Operand(a, {3, 64}, 5), Operand(b, {3, 64}, 6), y);
      }
    }
  }
}

TEST_CASE("cuda binary: whole numbers are exact") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor a = Integers(dtype, {7, 33}, 1), b = Integers(dtype, {33}, 2);
    const Tensor expected(dtype, {7, 33});
    for (const BinaryKind kind : {BinaryKind::kAdd, BinaryKind::kSub, BinaryKind::kMul}) {
      Run(ReferenceBackend(), BinaryArgs{kind, a, b, expected});
      OnEveryCudaPath(
          [&](Context& context) {
            std::vector<Tensor> y = {Tensor(dtype, {7, 33})};
            Run(MirroredCuda(), BinaryArgs{kind, a, b, y[0]}, context);
            return y;
          },
          // 0 and −0 are equal
          [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], expected, Tolerance{}); });
    }
  }
}

TEST_CASE("cuda binary: y may be a") {
  const Tensor a = Operand(DType::kBF16, {1000}, 7), b = Operand(DType::kF32, {1000}, 8);
  const Tensor expected(DType::kBF16, {1000});
  Run(ReferenceBackend(), BinaryArgs{BinaryKind::kAdd, a, b, expected});
  OnEveryCudaPath(
      [&](Context& context) {
        std::vector<Tensor> y = {a};
        Run(MirroredCuda(), BinaryArgs{BinaryKind::kAdd, y[0], b, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], expected, BinaryBounds(expected)); });
}

}  // namespace
}  // namespace lora::test
