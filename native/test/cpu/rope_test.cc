// rope of the CPU backend against the reference.
#include <doctest/doctest.h>

#include "backend/cpu/kernels.h"
#include "core/error.h"
#include "test/support/cpu_paths.h"
#include "test/support/rope_cases.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<RopeArgs> kRope = {cpu::ScratchBytes, cpu::Run};

TEST_CASE("rope: every head size, positions and offset, both directions, in place") {
  std::vector<RopeCase> cases = RopeCases();
  cases.push_back({2, 97, 9, 66, true, false});  // enough for three threads
  for (const DType act : {DType::kF32, DType::kBF16}) {
    for (const RopeCase& c : cases) {
      CAPTURE(NameOf(act));
      CAPTURE(c.s);
      CAPTURE(c.d);
      const RopeOperands o(c, act);
      const Shape shape = o.x.shape();
      Tensor expected(act, shape);
      Run(ReferenceBackend(), o.Args(o.x, expected));
      const std::vector<double> bounds = o.Bounds(expected);
      OnEveryCpuPath(
          [&](Context& context) {
            std::vector<Tensor> y = {Tensor(act, shape), o.x};
            Run(kRope, o.Args(o.x, y[0]), context);
            Run(kRope, o.Args(y[1], y[1]), context);
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
