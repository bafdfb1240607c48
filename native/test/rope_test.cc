// rope of the CPU backend against the reference.
#include "backend/cpu/rope.h"

#include <doctest/doctest.h>

#include "core/error.h"
#include "test/support/cpu_paths.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<RopeArgs> kRope = {cpu::RopeScratchBytes, cpu::Rope};

struct Case {
  int64_t b, s, heads, d;
  bool with_positions, inverse;
};

RopeArgs Arguments(const Case& c, const Tensor& x, const Tensor& cos, const Tensor& sin,
                   const Tensor& positions, const Tensor& y) {
  RopeArgs args;
  args.x = x;
  args.cos = cos;
  args.sin = sin;
  if (c.with_positions) {
    args.positions = positions;
  } else {
    args.offset = 2;
  }
  args.inverse = c.inverse;
  args.y = y;
  return args;
}

TEST_CASE("rope: every head size, positions and offset, both directions, in place") {
  std::vector<Case> cases;
  for (const int64_t d : {0, 2, 6, 8, 14, 16, 30, 32, 34, 64, 126, 128}) {
    cases.push_back({2, 5, 3, d, false, false});
    cases.push_back({2, 5, 3, d, true, true});
  }
  cases.push_back({0, 5, 3, 64, true, false});
  cases.push_back({3, 0, 3, 64, false, false});
  cases.push_back({2, 97, 9, 66, true, false});  // enough for three threads
  for (const DType act : {DType::kF32, DType::kBF16}) {
    for (const Case& c : cases) {
      CAPTURE(NameOf(act));
      CAPTURE(c.s);
      CAPTURE(c.d);
      const int64_t table = c.s + 4, half = c.d / 2;
      const Shape shape = {c.b, c.s, c.heads, c.d};
      const Tensor x = Normal(act, shape, 1);
      const Tensor cos = Uniform(DType::kF32, {table, half}, 2);
      const Tensor sin = Uniform(DType::kF32, {table, half}, 3);
      const Tensor positions = Integers(DType::kI32, {c.b, c.s}, 4, 0, static_cast<int>(table) - 1);
      Tensor expected(act, shape);
      Run(ReferenceBackend(), &Backend::rope, Arguments(c, x, cos, sin, positions, expected));
      std::vector<double> bounds;
      for (int64_t i = 0; i < x.numel(); ++i) {
        const int64_t column = i % c.d, pair = column < half ? i + half : i - half;
        // |cos|, |sin| <= 1
        bounds.push_back(3 * kU * (std::fabs(x.at(i)) + std::fabs(x.at(pair))) +
                         RoundingBound(act, expected.at(i)));
      }
      OnEveryCpuPath(
          [&](Context& context) {
            std::vector<Tensor> y = {Tensor(act, shape), x};
            Run(kRope, Arguments(c, x, cos, sin, positions, y[0]), context);
            Run(kRope, Arguments(c, y[1], cos, sin, positions, y[1]), context);
            return y;
          },
          [&](const std::vector<Tensor>& y) {
            CHECK_CLOSE(y[0], expected, bounds);
            CHECK_IDENTICAL(y[1], y[0]);
          });
    }
  }
}

TEST_CASE("rope: a position outside the table fails before anything is rotated") {
  cpu::CpuContext context(2);
  const Tensor cos = Full(DType::kF32, {4, 2}, 0.5), sin = cos;
  for (const int32_t bad : {-1, 4}) {
    Tensor x = Full(DType::kF32, {1, 2, 1, 4}, 3);
    RopeArgs args;
    args.x = x;
    args.y = x;
    args.cos = cos;
    args.sin = sin;
    const Tensor positions = Ints({1, 2}, {0, bad});
    args.positions = positions;
    try {
      Run(kRope, args, context);
      FAIL("expected an error");
    } catch (const Error& error) {
      CHECK(error.code() == "ERR_DATA");
    }
    CHECK_IDENTICAL(x, Full(DType::kF32, {1, 2, 1, 4}, 3));
  }
}

}  // namespace
}  // namespace lora::test
