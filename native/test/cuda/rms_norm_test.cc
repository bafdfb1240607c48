#include <doctest/doctest.h>

#include "test/support/cuda_paths.h"
#include "test/support/rms_norm_cases.h"

namespace lora::test {
namespace {

constexpr float kEps = 1e-5f;

std::vector<RmsNormCase> Cases() {
  std::vector<RmsNormCase> cases;
  for (const RmsNormCase& c : RmsNormCases()) {
    cases.push_back(c);
    if (c.n == 173) cases.back().n = 19;
    // Callers may ask for f16 forward only; backward works too
    if (c.act == DType::kBF16) {
      cases.push_back(cases.back());
      cases.back().act = DType::kF16;
      if (c.weight == DType::kBF16) cases.back().weight = DType::kF16;
    }
  }
  // The widest row of a warp, the first of a block.
  for (const int64_t d : {1024, 1025, 2056}) {
    cases.push_back({9, d, DType::kF32, DType::kF32});
    cases.push_back({9, d, DType::kBF16, DType::kBF16});
  }
  return cases;
}

TEST_CASE("cuda rms_norm: forward and backward") {
  const std::unique_ptr<Context> reference = ReferenceBackend().create_context(1);
  for (const RmsNormCase& c : Cases()) {
    CAPTURE(c.n);
    CAPTURE(c.d);
    CAPTURE(NameOf(c.act));
    CAPTURE(NameOf(c.weight));
    const Tensor x = Normal(c.act, {c.n, c.d}, 1, 2), w = Normal(c.weight, {c.d}, 2);
    const Tensor g = Normal(c.act, {c.n, c.d}, 3);
    const Tensor y(c.act, {c.n, c.d}), rstd(DType::kF32, {c.n}), dx(c.act, {c.n, c.d});
    ReferenceBackend().op<RmsNormForwardArgs>().run(RmsNormForwardArgs{x, w, kEps, y, rstd}, {},
                                                    *reference);
    ReferenceBackend().op<RmsNormBackwardArgs>().run(RmsNormBackwardArgs{x, w, rstd, g, dx}, {},
                                                     *reference);
    const std::vector<double> y_bounds = RmsNormBounds(c, y);
    const std::vector<double> dx_bounds = RmsNormBackwardBounds(c, x, w, rstd, g, dx);
    OnEveryCudaPath(
        [&](Context& context) {
          std::vector<Tensor> out = {Tensor(c.act, {c.n, c.d}), Tensor(DType::kF32, {c.n}),
                                     Tensor(c.act, {c.n, c.d}), Tensor(c.act, {c.n, c.d})};
          const Backend& cuda = MirroredCuda();
          Run(cuda, RmsNormForwardArgs{x, w, kEps, out[0], out[1]}, context);
          Run(cuda, RmsNormForwardArgs{x, w, kEps, out[2], TensorView()}, context);
          RunUnchecked(cuda, RmsNormBackwardArgs{x, w, rstd, g, out[3]}, context);
          return out;
        },
        [&](const std::vector<Tensor>& out) {
          CHECK_CLOSE(out[0], y, y_bounds);
          CHECK_CLOSE(out[1], rstd, (Tolerance{0, RstdError(c.d) + kU}));
          CHECK_IDENTICAL(out[2], out[0]);
          CHECK_CLOSE(out[3], dx, dx_bounds);
        });
  }
}

TEST_CASE("cuda rms_norm: rows of nothing have the rstd of eps") {
  MirrorContext context = NthContext(0);
  const Tensor x(DType::kF32, {3, 0}), w(DType::kF32, {0}), rstd(DType::kF32, {3});
  Run(MirroredCuda(), RmsNormForwardArgs{x, w, 0.25f, x, rstd}, context);
  for (int64_t i = 0; i < 3; ++i) CHECK(rstd.at(i) == 2);
}

}  // namespace
}  // namespace lora::test
