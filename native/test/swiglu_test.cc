// swiglu, forward and backward, of the CPU backend against the reference.
#include "backend/cpu/swiglu.h"

#include <doctest/doctest.h>

#include "test/support/cpu_paths.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<SwigluForwardArgs> kForward = {cpu::SwigluForwardScratchBytes, cpu::SwigluForward};
const Op<SwigluBackwardArgs> kBackward = {cpu::SwigluBackwardScratchBytes, cpu::SwigluBackward};

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

void CheckCase(DType act, const Tensor& gate, const Tensor& up, const Tensor& g) {
  const Shape shape = gate.shape();
  Tensor y(act, shape), dgate(act, shape), dup(act, shape);
  Run(ReferenceBackend(), &Backend::swiglu_forward, SwigluForwardArgs{gate, up, y});
  Run(ReferenceBackend(), &Backend::swiglu_backward, SwigluBackwardArgs{gate, up, g, dgate, dup});
  std::vector<double> y_bounds, dgate_bounds, dup_bounds;
  for (int64_t i = 0; i < gate.numel(); ++i) {
    const double x = gate.at(i), s = Sigmoid(x);
    y_bounds.push_back(8 * kU * std::fabs(y.at(i)) + RoundingBound(act, y.at(i)) + 1e-35);
    dup_bounds.push_back(8 * kU * std::fabs(dup.at(i)) + RoundingBound(act, dup.at(i)) + 1e-35);
    dgate_bounds.push_back(10 * kU * std::fabs(g.at(i) * up.at(i)) * s *
                               (1 + std::fabs(x) * Sigmoid(-x)) +
                           RoundingBound(act, dgate.at(i)) + 1e-35);
  }
  OnEveryCpuPath(
      [&](Context& context) {
        std::vector<Tensor> out = {Tensor(act, shape), Tensor(act, shape), Tensor(act, shape)};
        Run(kForward, SwigluForwardArgs{gate, up, out[0]}, context);
        Run(kBackward, SwigluBackwardArgs{gate, up, g, out[1], out[2]}, context);
        return out;
      },
      [&](const std::vector<Tensor>& out) {
        CHECK_CLOSE(out[0], y, y_bounds);
        CHECK_CLOSE(out[1], dgate, dgate_bounds);
        CHECK_CLOSE(out[2], dup, dup_bounds);
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
  std::vector<double> gates;
  for (double x = -120; x <= 120; x += 0.37) gates.push_back(x);
  const int64_t n = static_cast<int64_t>(gates.size());
  for (const DType act : {DType::kF32, DType::kBF16}) {
    CheckCase(act, Of(act, {n}, gates), Normal(act, {n}, 2), Normal(act, {n}, 3));
  }
}

}  // namespace
}  // namespace lora::test
