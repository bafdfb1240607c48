// rms_norm, forward and backward, of the CPU backend against the reference.
#include "backend/cpu/rms_norm.h"

#include <doctest/doctest.h>

#include "test/support/cpu_paths.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<RmsNormForwardArgs> kForward = {cpu::RmsNormForwardScratchBytes, cpu::RmsNormForward};
const Op<RmsNormBackwardArgs> kBackward = {cpu::RmsNormBackwardScratchBytes, cpu::RmsNormBackward};
constexpr float kEps = 1e-5f;

struct Case {
  int64_t n, d;
  DType act, weight;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  const auto add = [&](int64_t n, int64_t d) {
    cases.push_back({n, d, DType::kF32, DType::kF32});
    cases.push_back({n, d, DType::kBF16, DType::kBF16});
    cases.push_back({n, d, DType::kBF16, DType::kF32});
  };
  for (const int64_t d : {1, 2, 3, 7, 8, 15, 16, 17, 63, 64, 65, 127, 129, 1000}) add(3, d);
  add(0, 64);
  add(1, 4096);
  add(173, 577);  // enough for three threads
  return cases;
}

// Additions in the longest chain of a sum of d terms on the narrowest target (4 vectors of 4
// lanes), then the tree over vectors and lanes.
double Chain(int64_t d) { return static_cast<double>(d) / 16 + 8; }

TEST_CASE("rms_norm: forward") {
  for (const Case& c : Cases()) {
    CAPTURE(c.n);
    CAPTURE(c.d);
    CAPTURE(NameOf(c.act));
    CAPTURE(NameOf(c.weight));
    const Tensor x = Normal(c.act, {c.n, c.d}, 1, 2), w = Normal(c.weight, {c.d}, 2);
    Tensor y(c.act, {c.n, c.d}), rstd(DType::kF32, {c.n});
    Run(ReferenceBackend(), &Backend::rms_norm_forward, RmsNormForwardArgs{x, w, kEps, y, rstd});
    // All squares are positive, and the root halves their error.
    const double relative = kU * (Chain(c.d) / 2 + 2);
    std::vector<double> bounds;
    for (const double e : y.Values()) {
      bounds.push_back((relative + 2 * kU) * std::fabs(e) + RoundingBound(c.act, e));
    }
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
          CHECK_CLOSE(out[1], rstd, (Tolerance{0, relative + kU}));
          CHECK_IDENTICAL(out[2], out[0]);
        });
  }
}

TEST_CASE("rms_norm: backward") {
  for (const Case& c : Cases()) {
    CAPTURE(c.n);
    CAPTURE(c.d);
    CAPTURE(NameOf(c.act));
    CAPTURE(NameOf(c.weight));
    const Tensor x = Normal(c.act, {c.n, c.d}, 1, 2), w = Normal(c.weight, {c.d}, 2);
    const Tensor g = Normal(c.act, {c.n, c.d}, 3);
    Tensor y(c.act, {c.n, c.d}), rstd(DType::kF32, {c.n}), dx(c.act, {c.n, c.d});
    Run(ReferenceBackend(), &Backend::rms_norm_forward, RmsNormForwardArgs{x, w, kEps, y, rstd});
    Run(ReferenceBackend(), &Backend::rms_norm_backward, RmsNormBackwardArgs{x, w, rstd, g, dx});
    std::vector<double> bounds;
    for (int64_t row = 0; row < c.n; ++row) {
      double terms = 0;
      for (int64_t i = 0; i < c.d; ++i) {
        terms += std::fabs(g.at(row * c.d + i) * w.at(i) * x.at(row * c.d + i));
      }
      const double r = rstd.at(row), pull = r * r * terms / static_cast<double>(c.d);
      for (int64_t i = 0; i < c.d; ++i) {
        const int64_t at = row * c.d + i;
        bounds.push_back(r * kU *
                             (4 * std::fabs(g.at(at) * w.at(i)) +
                              (Chain(c.d) + 8) * std::fabs(x.at(at)) * pull) +
                         RoundingBound(c.act, dx.at(at)));
      }
    }
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
