#include <doctest/doctest.h>

#include "test/support/cuda_paths.h"
#include "test/support/swiglu_cases.h"

namespace lora::test {
namespace {

void CheckCase(DType act, const Tensor& gate, const Tensor& up, const Tensor& g) {
  const SwigluCase c(act, gate, up, g);
  const Shape shape = gate.shape();
  OnEveryCudaPath(
      [&](Context& context) {
        std::vector<Tensor> out = {Tensor(act, shape), Tensor(act, shape), Tensor(act, shape)};
        Run(MirroredCuda(), SwigluForwardArgs{gate, up, out[0]}, context);
        RunUnchecked(MirroredCuda(), SwigluBackwardArgs{gate, up, g, out[1], out[2]}, context);
        return out;
      },
      [&](const std::vector<Tensor>& out) {
        CHECK_CLOSE(out[0], c.y, c.y_bounds);
        CHECK_CLOSE(out[1], c.dgate, c.dgate_bounds);
        CHECK_CLOSE(out[2], c.dup, c.dup_bounds);
      });
}

constexpr DType kActs[] = {DType::kF32, DType::kBF16, DType::kF16};

TEST_CASE("cuda swiglu: every size agrees with the reference") {
  for (const DType act : kActs) {
    for (const int64_t n : CudaSizes()) {
      CAPTURE(NameOf(act));
      CAPTURE(n);
      CheckCase(act, Normal(act, {n}, 1, 3), Normal(act, {n}, 2), Normal(act, {n}, 3));
    }
  }
}

TEST_CASE("cuda swiglu: gates far from 0 neither overflow nor lose their digits") {
  for (const DType act : kActs) {
    const Tensor gates = FarGates(act);
    CheckCase(act, gates, Normal(act, gates.shape(), 2), Normal(act, gates.shape(), 3));
  }
}

}  // namespace
}  // namespace lora::test
