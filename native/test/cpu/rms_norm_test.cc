// rms_norm, forward and backward, of the CPU backend against the reference.
#include <doctest/doctest.h>

#include "backend/cpu/kernels.h"
#include "test/support/cpu_paths.h"
#include "test/support/rms_norm_cases.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<RmsNormForwardArgs> kForward = {cpu::ScratchBytes, cpu::Run};
const Op<RmsNormBackwardArgs> kBackward = {cpu::ScratchBytes, cpu::Run};
constexpr float kEps = 1e-5f;

TEST_CASE("rms_norm: forward") {
  for (const RmsNormCase& c : RmsNormCases()) {
    CAPTURE(c.n);
    CAPTURE(c.d);
    CAPTURE(NameOf(c.act));
    CAPTURE(NameOf(c.weight));
    const Tensor x = Normal(c.act, {c.n, c.d}, 1, 2), w = Normal(c.weight, {c.d}, 2);
    Tensor y(c.act, {c.n, c.d}), rstd(DType::kF32, {c.n});
    Run(ReferenceBackend(), RmsNormForwardArgs{x, w, kEps, y, rstd});
    const std::vector<double> bounds = RmsNormBounds(c, y);
    OnEveryCpuPath(
        [&](Context& context) {
          std::vector<Tensor> out = {Tensor(c.act, {c.n, c.d}), Tensor(DType::kF32, {c.n}),
                                     Tensor(c.act, {c.n, c.d})};
          Run(kForward, RmsNormForwardArgs{x, w, kEps, out[0], out[1]}, context);
          Run(kForward, RmsNormForwardArgs{x, w, kEps, out[2], TensorView()}, context);
          return out;
        },
        [&](const std::vector<Tensor>& out) {
          CHECK_CLOSE(out[0], y, bounds);
          CHECK_CLOSE(out[1], rstd, (Tolerance{0, RstdError(c.d) + kU}));
          CHECK_IDENTICAL(out[2], out[0]);
        });
  }
}

TEST_CASE("rms_norm: backward") {
  for (const RmsNormCase& c : RmsNormCases()) {
    CAPTURE(c.n);
    CAPTURE(c.d);
    CAPTURE(NameOf(c.act));
    CAPTURE(NameOf(c.weight));
    const Tensor x = Normal(c.act, {c.n, c.d}, 1, 2), w = Normal(c.weight, {c.d}, 2);
    const Tensor g = Normal(c.act, {c.n, c.d}, 3);
    Tensor y(c.act, {c.n, c.d}), rstd(DType::kF32, {c.n}), dx(c.act, {c.n, c.d});
    Run(ReferenceBackend(), RmsNormForwardArgs{x, w, kEps, y, rstd});
    Run(ReferenceBackend(), RmsNormBackwardArgs{x, w, rstd, g, dx});
    const std::vector<double> bounds = RmsNormBackwardBounds(c, x, w, rstd, g, dx);
    OnEveryCpuPath(
        [&](Context& context) {
          std::vector<Tensor> out = {Tensor(c.act, {c.n, c.d})};
          Run(kBackward, RmsNormBackwardArgs{x, w, rstd, g, out[0]}, context);
          return out;
        },
        [&](const std::vector<Tensor>& out) { CHECK_CLOSE(out[0], dx, bounds); });
  }
}

}  // namespace
}  // namespace lora::test
