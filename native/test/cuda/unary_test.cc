#include <doctest/doctest.h>

#include "core/error.h"
#include "test/support/cuda_paths.h"
#include "test/support/unary_cases.h"

namespace lora::test {
namespace {

void CheckForward(UnaryKind kind, const Tensor& x, DType to) {
  const Tensor expected(to, x.shape());
  Run(ReferenceBackend(), UnaryArgs{kind, kAlpha, x, expected});
  const std::vector<double> bounds = UnaryBounds(kind, expected);
  OnEveryCudaPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(to, x.shape())};
        Run(MirroredCuda(), UnaryArgs{kind, kAlpha, x, y[0]}, context);
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

void CheckBackward(UnaryKind kind, const Tensor& x, const Tensor& g) {
  const Tensor expected(x.dtype(), x.shape());
  Run(ReferenceBackend(), UnaryBackwardArgs{kind, kAlpha, x, g, expected});
  const std::vector<double> bounds = UnaryBackwardBounds(kind, x, g, expected);
  OnEveryCudaPath(
      [&](Context& context) {
        std::vector<Tensor> dx = {Tensor(x.dtype(), x.shape())};
        Run(MirroredCuda(), UnaryBackwardArgs{kind, kAlpha, x, g, dx[0]}, context);
        return dx;
      },
      [&](const std::vector<Tensor>& dx) { CHECK_CLOSE(dx[0], expected, bounds); });
}

TEST_CASE("cuda unary: every function, dtype and size agrees with the reference") {
  for (const UnaryKind kind : kKinds) {
    for (const Types types : kTypes) {
      for (const int64_t n : CudaSizes()) {
        if (n > 9 && n < 2048 && types.x != types.y) continue;
        CAPTURE(static_cast<int>(kind));
        CAPTURE(NameOf(types.x));
        CAPTURE(NameOf(types.y));
        CAPTURE(n);
        CheckForward(kind, UnaryInput(kind, types.x, n, 1), types.y);
        CheckBackward(kind, UnaryInput(kind, types.x, n, 2), Normal(types.y, {n}, 3));
      }
    }
  }
}

TEST_CASE("cuda unary: gelu and silu and their gradients stay accurate in their tails") {
  const Tensor x = TailInputs();
  for (const UnaryKind kind : {UnaryKind::kGelu, UnaryKind::kSilu}) {
    CheckForward(kind, x, DType::kF32);
    CheckBackward(kind, x, Full(DType::kF32, x.shape(), 1));
  }
}

// The same bits, but any NaN for a NaN.
void CheckCast(const Tensor& x, DType to, int turn) {
  const Tensor expected(to, x.shape()), y(to, x.shape());
  Run(ReferenceBackend(), UnaryArgs{UnaryKind::kCopy, 1, x, expected});
  MirrorContext context = NthContext(turn, turn % 2);
  Run(MirroredCuda(), UnaryArgs{UnaryKind::kCopy, 1, x, y}, context);
  CHECK(WrongValues(y, expected) == 0);
}

// Two NaNs are what the emulator fills unset registers with.
void AvoidUnset(const Tensor& x) {
  for (int64_t i = 0; i < x.numel(); ++i) {
    uint16_t* bits = x.view().as<uint16_t>() + i;
    if (*bits == 0xfefe || *bits == 0xfeff) *bits = 0;
  }
}

TEST_CASE(
    "cuda unary: casts of every bf16 and f16 value are exact, subnormals and infinities included") {
  int turn = 0;
  for (const DType from : {DType::kBF16, DType::kF16}) {
    const Tensor x = EveryPattern(from);
    AvoidUnset(x);
    for (const DType to : {DType::kF32, DType::kBF16, DType::kF16, DType::kI32}) {
      CAPTURE(NameOf(from));
      CAPTURE(NameOf(to));
      CheckCast(x, to, turn++);
    }
  }
}

TEST_CASE("cuda unary: casts round to nearest even at every kind of boundary") {
  int turn = 0;
  const Tensor x = RoundingBoundaries();
  for (int64_t i = 0; i < x.numel(); ++i) {
    const uint32_t bits = x.view().as<uint32_t>()[i] >> 16;
    if (bits == 0xfefe || bits == 0xfeff || bits == 0xfefd) x.view().as<uint32_t>()[i] = 0;
  }
  for (const DType to : {DType::kBF16, DType::kF16, DType::kI32}) {
    CAPTURE(NameOf(to));
    CheckCast(x, to, turn++);
  }
}

TEST_CASE("cuda unary: whole numbers are copied and cast, rounded once") {
  std::vector<int32_t> values = {0, -1, 7, 2147483647, -2147483647 - 1};
  // Just above and below the middle between two bf16 values, and ties.
  for (const int32_t middle : {0x01010000 >> 1, 0x40400000, 0x7f400000, 0x02020000 + 0x10000}) {
    for (const int32_t off : {-1, 0, 1}) {
      values.push_back(middle + off);
      values.push_back(-middle - off);
    }
  }
  for (int32_t v = 1; v > 0 && v < 1 << 30; v = v * 3 + 1) values.push_back(v);
  const Tensor x = Ints({static_cast<int64_t>(values.size())}, values);
  int turn = 0;
  for (const DType to : {DType::kI32, DType::kF32, DType::kBF16, DType::kF16})
    CheckCast(x, to, turn++);
}

TEST_CASE("cuda unary: a copy keeps the bits of a NaN, relu lets it through") {
  const Tensor x = Of(DType::kF32, {3}, {std::nan(""), -1, 2});
  const Tensor y(DType::kF32, {3}), copy(DType::kF32, {3});
  MirrorContext context = NthContext(0);
  Run(MirroredCuda(), UnaryArgs{UnaryKind::kRelu, 1, x, y}, context);
  Run(MirroredCuda(), UnaryArgs{UnaryKind::kCopy, 1, x, copy}, context);
  CHECK(std::isnan(y.at(0)));
  CHECK(y.at(1) == 0);
  CHECK(y.at(2) == 2);
  CHECK_IDENTICAL(copy, x);
}

TEST_CASE("cuda unary: y may be x") {
  for (const UnaryKind kind : kKinds) {
    const Tensor x = UnaryInput(kind, DType::kBF16, 515, 1), expected(DType::kBF16, {515});
    Run(ReferenceBackend(), UnaryArgs{kind, kAlpha, x, expected});
    MirrorContext context = NthContext(static_cast<int>(kind));
    Run(MirroredCuda(), UnaryArgs{kind, kAlpha, x, x}, context);
    CHECK_CLOSE(x, expected, UnaryBounds(kind, expected));
  }
}

TEST_CASE("cuda unary: arithmetic on whole numbers is refused") {
  MirrorContext context = NthContext(0);
  const Tensor x = Ints({1}, {1}), y(DType::kF32, {1});
  CHECK_THROWS_AS(RunUnchecked(MirroredCuda(), UnaryArgs{UnaryKind::kSquare, 1, x, y}, context),
                  Error);
}

}  // namespace
}  // namespace lora::test
