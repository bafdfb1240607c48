// swiglu, forward and backward, of the CPU backend against the reference.
#include <doctest/doctest.h>

#include "backend/cpu/kernels.h"
#include "test/support/cpu_paths.h"
#include "test/support/swiglu_cases.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<SwigluForwardArgs> kForward = {cpu::ScratchBytes, cpu::Run};
const Op<SwigluBackwardArgs> kBackward = {cpu::ScratchBytes, cpu::Run};

void CheckCase(DType act, const Tensor& gate, const Tensor& up, const Tensor& g) {
  const SwigluCase c(act, gate, up, g);
  const Shape shape = gate.shape();
  OnEveryCpuPath(
      [&](Context& context) {
        std::vector<Tensor> out = {Tensor(act, shape), Tensor(act, shape), Tensor(act, shape)};
        Run(kForward, SwigluForwardArgs{gate, up, out[0]}, context);
        Run(kBackward, SwigluBackwardArgs{gate, up, g, out[1], out[2]}, context);
        return out;
      },
      [&](const std::vector<Tensor>& out) {
        CHECK_CLOSE(out[0], c.y, c.y_bounds);
        CHECK_CLOSE(out[1], c.dgate, c.dgate_bounds);
        CHECK_CLOSE(out[2], c.dup, c.dup_bounds);
      });
}

TEST_CASE("swiglu: every size agrees with the reference") {
  for (const DType act : {DType::kF32, DType::kBF16}) {
    for (const int64_t n : OddSizes()) {
      CAPTURE(NameOf(act));
      CAPTURE(n);
      CheckCase(act, Normal(act, {n}, 1, 3), Normal(act, {n}, 2), Normal(act, {n}, 3));
    }
  }
}

TEST_CASE("swiglu: gates far from 0 neither overflow nor lose their digits") {
  for (const DType act : {DType::kF32, DType::kBF16}) {
    const Tensor gates = FarGates(act);
    CheckCase(act, gates, Normal(act, gates.shape(), 2), Normal(act, gates.shape(), 3));
  }
}

}  // namespace
}  // namespace lora::test
