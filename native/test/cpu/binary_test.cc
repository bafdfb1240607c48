// binary of the CPU backend against the reference.
#include <doctest/doctest.h>

#include "backend/cpu/kernels.h"
#include "core/ops/shapes.h"
#include "test/support/binary_cases.h"
#include "test/support/cpu_paths.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<BinaryArgs> kBinary = {cpu::ScratchBytes, cpu::Run};

void CheckCase(BinaryKind kind, const Tensor& a, const Tensor& b, DType to) {
  const Shape shape = BroadcastShapes("add", a.shape(), b.shape());
  CAPTURE(static_cast<int>(kind));
  CAPTURE(Text(a.shape()));
  CAPTURE(Text(b.shape()));
  CAPTURE(NameOf(to));
  Tensor expected(to, shape);
  Run(ReferenceBackend(), BinaryArgs{kind, a, b, expected});
  const std::vector<double> bounds = BinaryBounds(expected);
  OnEveryCpuPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(to, shape)};
        Run(kBinary, BinaryArgs{kind, a, b, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], expected, bounds); });
}

TEST_CASE("binary: equal shapes of every size") {
  for (const int64_t n : OddSizes()) {
    for (const BinaryKind kind : kKinds) {
      CheckCase(kind, Operand(DType::kF32, {n}, 1), Operand(DType::kF32, {n}, 2), DType::kF32);
    }
    CheckCase(BinaryKind::kSub, Operand(DType::kBF16, {n}, 1), Operand(DType::kBF16, {n}, 2),
              DType::kBF16);
  }
}

TEST_CASE("binary: shapes broadcast as NumPy's do") {
  for (const auto& [a, b] : BroadcastCases()) {
    for (const BinaryKind kind : kKinds) {
      CheckCase(kind, Operand(DType::kF32, a, 3), Operand(DType::kF32, b, 4), DType::kF32);
    }
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
        CheckCase(BinaryKind::kDiv, Operand(a, {3, 67}, 5), Operand(b, {3, 67}, 6), y);
      }
    }
  }
}

TEST_CASE("binary: y may be a") {
  const Tensor a = Operand(DType::kBF16, {1000}, 7), b = Operand(DType::kF32, {1000}, 8);
  Tensor expected(DType::kBF16, {1000});
  Run(ReferenceBackend(), BinaryArgs{BinaryKind::kAdd, a, b, expected});
  OnEveryCpuPath(
      [&](Context& context) {
        std::vector<Tensor> y = {a};
        Run(kBinary, BinaryArgs{BinaryKind::kAdd, y[0], b, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) {
        CHECK_CLOSE(y[0], expected, (Tolerance{1e-30, 1.0 / 128}));
      });
}

}  // namespace
}  // namespace lora::test
