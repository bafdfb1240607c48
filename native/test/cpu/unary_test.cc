// unary and unary_backward of the CPU backend against the reference.
#include <doctest/doctest.h>

#include <cmath>

#include "backend/cpu/kernels.h"
#include "core/error.h"
#include "test/support/cpu_paths.h"
#include "test/support/tensors.h"
#include "test/support/unary_cases.h"

namespace lora::test {
namespace {

const Op<UnaryArgs> kUnary = {cpu::ScratchBytes, cpu::Run};
const Op<UnaryBackwardArgs> kBackward = {cpu::ScratchBytes, cpu::Run};

void CheckForward(UnaryKind kind, const Tensor& x, DType to) {
  Tensor expected(to, x.shape());
  Run(ReferenceBackend(), UnaryArgs{kind, kAlpha, x, expected});
  const std::vector<double> bounds = UnaryBounds(kind, expected);
  OnEveryCpuPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(to, x.shape())};
        Run(kUnary, UnaryArgs{kind, kAlpha, x, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) {
        if (kind == UnaryKind::kCopy) {
          CHECK_IDENTICAL(y[0], expected);
        } else {
          CHECK_CLOSE(y[0], expected, bounds);
        }
      });
}

TEST_CASE("unary: every function, dtype and size agrees with the reference") {
  for (const UnaryKind kind : kKinds) {
    for (const Types types : kTypes) {
      for (const int64_t n : OddSizes()) {
        if (n > 2000 && types.x != types.y) continue;
        CAPTURE(static_cast<int>(kind));
        CAPTURE(NameOf(types.x));
        CAPTURE(NameOf(types.y));
        CAPTURE(n);
        CheckForward(kind, UnaryInput(kind, types.x, n, 1), types.y);
      }
    }
  }
}

TEST_CASE("unary_backward: every function, dtype and size agrees with the reference") {
  for (const UnaryKind kind : kKinds) {
    for (const Types types : kTypes) {
      for (const int64_t n : OddSizes()) {
        if (n > 2000 && types.x != types.y) continue;
        CAPTURE(static_cast<int>(kind));
        CAPTURE(NameOf(types.x));
        CAPTURE(n);
        const Tensor x = UnaryInput(kind, types.x, n, 2), g = Normal(types.y, {n}, 3);
        Tensor expected(types.x, {n});
        Run(ReferenceBackend(), UnaryBackwardArgs{kind, kAlpha, x, g, expected});
        const std::vector<double> bounds = UnaryBackwardBounds(kind, x, g, expected);
        OnEveryCpuPath(
            [&](Context& context) {
              std::vector<Tensor> dx = {Tensor(types.x, {n})};
              Run(kBackward, UnaryBackwardArgs{kind, kAlpha, x, g, dx[0]}, context);
              return dx;
            },
            [&](const std::vector<Tensor>& dx) { CHECK_CLOSE(dx[0], expected, bounds); });
      }
    }
  }
}

TEST_CASE("unary: gelu and silu stay accurate in their tails") {
  for (const UnaryKind kind : {UnaryKind::kGelu, UnaryKind::kSilu})
    CheckForward(kind, TailInputs(), DType::kF32);
}

// The same bits, but any NaN for a NaN.
void CheckCast(const Tensor& x, DType to) {
  Tensor expected(to, x.shape());
  Run(ReferenceBackend(), UnaryArgs{UnaryKind::kCopy, 1, x, expected});
  OnEveryCpuPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(to, x.shape())};
        Run(kUnary, UnaryArgs{UnaryKind::kCopy, 1, x, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) { CHECK(WrongValues(y[0], expected) == 0); });
}

TEST_CASE(
    "unary: casts of every bf16 and f16 value are exact, subnormals and infinities included") {
  for (const DType from : {DType::kBF16, DType::kF16}) {
    for (const DType to : {DType::kF32, DType::kBF16, DType::kF16, DType::kI32}) {
      CAPTURE(NameOf(from));
      CAPTURE(NameOf(to));
      CheckCast(EveryPattern(from), to);
    }
  }
}

TEST_CASE("unary: casts round to nearest even at every kind of boundary") {
  const Tensor x = RoundingBoundaries();
  for (const DType to : {DType::kBF16, DType::kF16, DType::kI32}) {
    CAPTURE(NameOf(to));
    CheckCast(x, to);
  }
}

TEST_CASE("unary: whole numbers are copied and cast") {
  const Tensor x = Ints({5}, {0, -1, 7, 2147483647, -2147483647 - 1});
  for (const DType to : {DType::kI32, DType::kF32, DType::kBF16, DType::kF16}) CheckCast(x, to);
}

TEST_CASE("unary: a copy keeps the bits of a NaN, relu lets it through") {
  Tensor x = Of(DType::kF32, {3}, {std::nan(""), -1, 2});
  OnEveryCpuPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(DType::kF32, {3}), Tensor(DType::kF32, {3})};
        Run(kUnary, UnaryArgs{UnaryKind::kRelu, 1, x, y[0]}, context);
        Run(kUnary, UnaryArgs{UnaryKind::kCopy, 1, x, y[1]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) {
        CHECK(std::isnan(y[0].at(0)));
        CHECK(y[0].at(1) == 0);
        CHECK(y[0].at(2) == 2);
        CHECK_IDENTICAL(y[1], x);
      });
}

TEST_CASE("unary: arithmetic on whole numbers is refused") {
  cpu::CpuContext context(1);
  const Tensor x = Ints({1}, {1});
  Tensor y(DType::kF32, {1});
  CHECK_THROWS_AS(cpu::Run(UnaryArgs{UnaryKind::kSquare, 1, x, y}, {}, context), Error);
}

}  // namespace
}  // namespace lora::test
