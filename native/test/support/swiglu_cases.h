// swiglu: inputs, results of the reference and bounds, for every backend.
#pragma once

#include <cmath>
#include <vector>

#include "test/support/rounding.h"
#include "test/support/run.h"
#include "test/support/tensors.h"

namespace lora::test {

struct SwigluCase {
  SwigluCase(DType act, const Tensor& gate, const Tensor& up, const Tensor& g)
      : gate(gate),
        up(up),
        g(g),
        y(act, gate.shape()),
        dgate(act, gate.shape()),
        dup(act, gate.shape()) {
    const std::unique_ptr<Context> context = ReferenceBackend().create_context(1);
    ReferenceBackend().op<SwigluForwardArgs>().run(SwigluForwardArgs{gate, up, y}, {}, *context);
    ReferenceBackend().op<SwigluBackwardArgs>().run(SwigluBackwardArgs{gate, up, g, dgate, dup}, {},
                                                    *context);
    const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
    for (int64_t i = 0; i < gate.numel(); ++i) {
      const double x = gate.at(i), s = sigmoid(x);
      y_bounds.push_back(8 * kU * std::fabs(y.at(i)) + RoundingBound(act, y.at(i)) + 1e-35);
      dup_bounds.push_back(8 * kU * std::fabs(dup.at(i)) + RoundingBound(act, dup.at(i)) + 1e-35);
      dgate_bounds.push_back(10 * kU * std::fabs(g.at(i) * up.at(i)) * s *
                                 (1 + std::fabs(x) * sigmoid(-x)) +
                             RoundingBound(act, dgate.at(i)) + 1e-35);
    }
  }
  Tensor gate, up, g;
  Tensor y, dgate, dup;  // the reference's
  std::vector<double> y_bounds, dgate_bounds, dup_bounds;
};

// Far from 0 on both sides.
inline Tensor FarGates(DType act) {
  std::vector<double> gates;
  for (double x = -120; x <= 120; x += 0.37) gates.push_back(x);
  return Of(act, {static_cast<int64_t>(gates.size())}, gates);
}

}  // namespace lora::test
