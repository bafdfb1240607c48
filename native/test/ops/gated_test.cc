#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "test/support/gate_bounds.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

const std::vector<GatedKind> kKinds = EachKind<GatedKind>(kGatedKinds);

struct GatedCase {
  GatedCase(GatedKind kind, DType act, const Tensor& gate, const Tensor& up, const Tensor& g)
      : gate(gate),
        up(up),
        g(g),
        y(act, gate.shape()),
        dgate(act, gate.shape()),
        dup(act, gate.shape()) {
    const auto context = ReferenceBackend().create_context(1);
    Run(ReferenceBackend(), GatedForwardArgs{kind, gate, up, y}, *context);
    RunGradient(ReferenceBackend(), GatedBackwardArgs{kind, gate, up, g, dgate, dup}, act,
                *context);
    for (int64_t i = 0; i < gate.numel(); ++i) {
      const double x = gate.at(i), steps = StepsOf(kind, x) * kU;
      const double factor = std::fabs(g.at(i) * FactorOf(kind, up.at(i)));
      y_bounds.push_back(steps * std::fabs(y.at(i)) + RoundingBound(act, y.at(i)) + 1e-35);
      dup_bounds.push_back(steps * std::fabs(dup.at(i)) + RoundingBound(act, dup.at(i)) + 1e-35);
      dgate_bounds.push_back(factor *
                                 (10 * kU * GradientTermsOf(kind, x) +
                                  (kind == GatedKind::kSilu ? 0 : FlushedOf(kind) * std::fabs(x))) +
                             RoundingBound(act, dgate.at(i)) + 1e-35);
    }
  }
  Tensor gate, up, g;
  Tensor y, dgate, dup;  // the reference's
  std::vector<double> y_bounds, dgate_bounds, dup_bounds;
};

// Returns gates far from 0 on both sides.
Tensor FarGates(DType act) {
  std::vector<double> gates;
  for (double x = -120; x <= 120; x += 0.37) gates.push_back(x);
  const double most = act == DType::kF16 ? 6e4 : 1e30;
  gates.insert(gates.end(), {most, -most});
  return Of(act, {static_cast<int64_t>(gates.size())}, gates);
}

// y of the backward pass has the bits of the forward pass, also in place of g, and the gradients
// have theirs. `out` has all of these.
void CheckOutputOfBackward(const GatedBackwardArgs& args, const std::vector<Tensor>& out,
                           Context& context) {
  const DType act = args.g.dtype;
  const Tensor y(act, args.g.shape), dgate = y, dup = y;
  Tensor g = y;
  std::memcpy(g.view().data, args.g.data, args.g.bytes());
  for (const auto& [from, to] : {std::pair{args.g, y.view()}, {g.view(), g.view()}}) {
    const GatedBackwardArgs with_y{args.kind, args.gate, args.up, from, dgate, dup, to};
    RunGradient(Tested().backend, with_y, act, context);
    CHECK_IDENTICAL(dgate, out[1]);
    CHECK_IDENTICAL(dup, out[2]);
  }
  CHECK_IDENTICAL(y, out[0]);
  CHECK_IDENTICAL(g, out[0]);
}

void CheckCase(GatedKind kind, DType act, const Tensor& gate, const Tensor& up, const Tensor& g) {
  const GatedCase c(kind, act, gate, up, g);
  const Shape shape = gate.shape();
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> out = {Tensor(act, shape), Tensor(act, shape), Tensor(act, shape)};
        RunTested(GatedForwardArgs{kind, gate, up, out[0]}, context);
        const GatedBackwardArgs backward{kind, gate, up, g, out[1], out[2]};
        RunGradient(Tested().backend, backward, act, context);
        CheckOutputOfBackward(backward, out, context);
        return out;
      },
      [&](const std::vector<Tensor>& out) {
        CHECK_CLOSE(out[0], c.y, c.y_bounds);
        CHECK_CLOSE(out[1], c.dgate, c.dgate_bounds);
        CHECK_CLOSE(out[2], c.dup, c.dup_bounds);
      });
}

TEST_CASE("gated: every kind and size agrees with the reference") {
  for (const GatedKind kind : kKinds) {
    for (const DType act : Activations()) {
      for (const int64_t n : Tested().sizes) {
        CAPTURE(kGatedKinds[static_cast<size_t>(kind)]);
        CAPTURE(NameOf(act));
        CAPTURE(n);
        CheckCase(kind, act, Normal(act, {n}, 1, 3), Normal(act, {n}, 2), Normal(act, {n}, 3));
      }
    }
  }
}

TEST_CASE("gated: gates far from 0 neither overflow nor lose their digits") {
  for (const GatedKind kind : kKinds) {
    for (const DType act : Activations()) {
      CAPTURE(kGatedKinds[static_cast<size_t>(kind)]);
      const Tensor gates = FarGates(act);
      CheckCase(kind, act, gates, Normal(act, gates.shape(), 2), Normal(act, gates.shape(), 3));
    }
  }
}

TEST_CASE("gated: gates and factors on both sides of the limits of the clamped kind") {
  for (const DType act : Activations()) {
    std::vector<double> gates, ups;
    for (const double gate : {-8.0, -7.0, -1.0, 0.5, 6.96875, 7.0, 7.03125, 30.0})
      for (const double up :
           {-30.0, -7.03125, -7.0, -6.96875, -1.0, 0.0, 6.96875, 7.0, 7.03125, 30.0}) {
        gates.push_back(gate);
        ups.push_back(up);
      }
    const Shape shape{static_cast<int64_t>(gates.size())};
    CheckCase(GatedKind::kClamped, act, Of(act, shape, gates), Of(act, shape, ups),
              Normal(act, shape, 3));
  }
}

}  // namespace
}  // namespace lora::test
