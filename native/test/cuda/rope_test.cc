#include <doctest/doctest.h>

#include "core/error.h"
#include "test/support/cuda_paths.h"
#include "test/support/rope_cases.h"

namespace lora::test {
namespace {

TEST_CASE("cuda rope: every head size, positions and offset, both directions, in place") {
  std::vector<RopeCase> cases = RopeCases();
  cases.push_back({1, 7, 9, 64, true, false});  // more heads than a thread takes
  for (const DType act : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const RopeCase& c : cases) {
      CAPTURE(NameOf(act));
      CAPTURE(c.s);
      CAPTURE(c.d);
      const RopeOperands o(c, act);
      const Tensor expected(act, o.x.shape());
      const std::unique_ptr<Context> reference = ReferenceBackend().create_context(1);
      ReferenceBackend().op<RopeArgs>().run(o.Args(o.x, expected), {}, *reference);
      const std::vector<double> bounds = o.Bounds(expected);
      OnEveryCudaPath(
          [&](Context& context) {
            std::vector<Tensor> y = {Tensor(act, o.x.shape()), o.x};
            Run(MirroredCuda(), o.Args(o.x, y[0]), context);
            Run(MirroredCuda(), o.Args(y[1], y[1]), context);
            return y;
          },
          [&](const std::vector<Tensor>& y) {
            CHECK_CLOSE(y[0], expected, bounds);
            CHECK_IDENTICAL(y[1], y[0]);
          });
    }
  }
}

TEST_CASE("cuda rope: a position outside the table fails before anything is rotated") {
  MirrorContext context = NthContext(0);
  const Tensor cos = Full(DType::kF32, {4, 2}, 0.5), sin = cos;
  for (const int32_t bad : {-1, 4}) {
    const Tensor x = Full(DType::kF32, {1, 3, 1, 4}, 3);
    RopeArgs args;
    args.x = x;
    args.y = x;
    args.cos = cos;
    args.sin = sin;
    const Tensor positions = Ints({1, 3}, {0, bad, 99});
    args.positions = positions;
    try {
      Run(MirroredCuda(), args, context);
      FAIL("expected an error");
    } catch (const Error& error) {
      CHECK(error.code() == "ERR_DATA");
      CHECK(std::string(error.what()) ==
            "[rope] expected positions from 0 to 3 but received " + std::to_string(bad));
    }
    CHECK_IDENTICAL(x, Full(DType::kF32, {1, 3, 1, 4}, 3));
  }
}

}  // namespace
}  // namespace lora::test
