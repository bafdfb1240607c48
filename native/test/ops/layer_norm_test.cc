#include <cmath>
#include <vector>

#include "test/support/gradient.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

constexpr float kEps = 1e-5f;

struct LayerNormCase {
  int64_t n, d;
  DType act, weight, bias;
};

std::vector<LayerNormCase> LayerNormCases() {
  std::vector<LayerNormCase> cases;
  const auto add = [&](int64_t n, int64_t d) {
    for (const DType act : Activations()) {
      cases.push_back({n, d, act, DType::kF32, act});
      if (act != DType::kF32) cases.push_back({n, d, act, act, DType::kF32});
    }
  };
  for (const int64_t d : {1, 2, 3, 7, 8, 15, 16, 17, 63, 64, 65, 127, 129, 1000}) add(3, d);
  for (const int64_t d : {2048, 2049, 2057}) add(9, d);  // the widest row of a warp, of a block
  add(0, 64);
  add(Tested().emulated ? 19 : 173, 577);  // enough for three threads
  return cases;
}

// Returns the additions in the longest chain of a sum of d terms on the CPU's narrowest target (4
// vectors of 4 lanes), then the tree over vectors and lanes. A GPU's chains are shorter.
double Chain(int64_t d) { return static_cast<double>(d) / 16 + 8; }

// A row as the reference sees it.
struct Row {
  double mean = 0, magnitude = 0, rstd = 0;  // magnitude: of the largest element
  // Bounds the error of the mean, and the relative one of rstd: squares of deviations are positive,
  // and each is off by that of the mean.
  double mean_error = 0, rstd_error = 0;
  Row(const LayerNormCase& c, const Tensor& x, int64_t row) {
    const auto d = static_cast<double>(c.d);
    double square = 0;
    for (int64_t i = 0; i < c.d; ++i) {
      mean += x.at(row * c.d + i) / d;
      magnitude = std::max(magnitude, std::fabs(x.at(row * c.d + i)));
    }
    for (int64_t i = 0; i < c.d; ++i) square += std::pow(x.at(row * c.d + i) - mean, 2);
    rstd = 1 / std::sqrt(square / d + static_cast<double>(kEps));
    mean_error = kU * (Chain(c.d) + 2) * magnitude;
    rstd_error = kU * (Chain(c.d) / 2 + 4) + 2 * mean_error * rstd;
  }
};

std::vector<double> ForwardBounds(const LayerNormCase& c, const Tensor& x, const Tensor& w,
                                  const Tensor& y) {
  std::vector<double> bounds;
  for (int64_t row = 0; row < c.n; ++row) {
    const Row r(c, x, row);
    for (int64_t i = 0; i < c.d; ++i) {
      const int64_t at = row * c.d + i;
      const double normed = std::fabs((x.at(at) - r.mean) * r.rstd * w.at(i));
      const double moved = (r.mean_error + kU * r.magnitude) * r.rstd * std::fabs(w.at(i));
      bounds.push_back(normed * (r.rstd_error + 4 * kU) + moved + kU * std::fabs(y.at(at)) +
                       RoundingBound(c.act, y.at(at)));
    }
  }
  return bounds;
}

// mean and rstd are operands, so their errors do not count.
std::vector<double> BackwardBounds(const LayerNormCase& c, const Tensor& x, const Tensor& w,
                                   const Tensor& g, const Tensor& dx) {
  std::vector<double> bounds;
  for (int64_t row = 0; row < c.n; ++row) {
    const Row r(c, x, row);
    const auto normed = [&](int64_t i) {
      return (std::fabs(x.at(row * c.d + i) - r.mean) + kU * r.magnitude) * r.rstd;
    };
    double sum = 0, along = 0;
    for (int64_t i = 0; i < c.d; ++i) {
      const double pulled = std::fabs(g.at(row * c.d + i) * w.at(i)) / static_cast<double>(c.d);
      sum += pulled;
      along += pulled * normed(i);
    }
    for (int64_t i = 0; i < c.d; ++i) {
      const int64_t at = row * c.d + i;
      bounds.push_back(kU * r.rstd *
                           (4 * std::fabs(g.at(at) * w.at(i)) + (Chain(c.d) + 4) * sum +
                            (Chain(c.d) + 8) * normed(i) * along +
                            r.magnitude * r.rstd * (along + normed(i) * sum)) +
                       RoundingBound(c.act, dx.at(at)));
    }
  }
  return bounds;
}

TEST_CASE("layer_norm: forward and backward") {
  for (const LayerNormCase& c : LayerNormCases()) {
    CAPTURE(c.n);
    CAPTURE(c.d);
    CAPTURE(NameOf(c.act));
    CAPTURE(NameOf(c.weight));
    const Shape shape{c.n, c.d}, rows{c.n};
    Tensor x = Normal(c.act, shape, 1, 2);
    for (int64_t i = 0; i < x.numel(); ++i) x.Set(i, x.at(i) + 3);  // the mean matters
    const Tensor w = Normal(c.weight, {c.d}, 2), b = Normal(c.bias, {c.d}, 4);
    const Tensor g = Normal(c.act, shape, 3), y(c.act, shape), dx(c.act, shape);
    const Tensor mean(DType::kF32, rows), rstd(DType::kF32, rows);
    const auto reference = ReferenceBackend().create_context(1);
    Run(ReferenceBackend(), LayerNormForwardArgs{x, w, b, kEps, y, mean, rstd}, *reference);
    RunGradient(ReferenceBackend(), LayerNormBackwardArgs{x, w, mean, rstd, g, dx}, c.act,
                *reference);
    std::vector<double> mean_bounds, rstd_bounds;
    for (int64_t row = 0; row < c.n; ++row) {
      const Row r(c, x, row);
      mean_bounds.push_back(r.mean_error);
      rstd_bounds.push_back((r.rstd_error + kU) * r.rstd);
    }
    OnEveryPath(
        [&](Context& context) {
          std::vector<Tensor> out = {Tensor(c.act, shape), Tensor(DType::kF32, rows),
                                     Tensor(DType::kF32, rows), Tensor(c.act, shape),
                                     Tensor(c.act, shape)};
          RunTested(LayerNormForwardArgs{x, w, b, kEps, out[0], out[1], out[2]}, context);
          RunTested(LayerNormForwardArgs{x, w, b, kEps, out[3], {}, {}}, context);
          const LayerNormBackwardArgs backward{x, w, mean, rstd, g, out[4]};
          RunGradient(Tested().backend, backward, c.act, context);
          return out;
        },
        [&](const std::vector<Tensor>& out) {
          CHECK_CLOSE(out[0], y, ForwardBounds(c, x, w, y));
          CHECK_CLOSE(out[1], mean, mean_bounds);
          CHECK_CLOSE(out[2], rstd, rstd_bounds);
          CHECK_IDENTICAL(out[3], out[0]);
          CHECK_CLOSE(out[4], dx, BackwardBounds(c, x, w, g, dx));
        });
  }
}

TEST_CASE("layer_norm: rows of nothing have the rstd of eps") {
  const Tensor x(DType::kF32, {3, 0}), w(DType::kF32, {0});
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> out = {Tensor(DType::kF32, {3}), Tensor(DType::kF32, {3})};
        RunTested(LayerNormForwardArgs{x, w, w, 0.25f, x, out[0], out[1]}, context);
        return out;
      },
      [&](const std::vector<Tensor>& out) {
        CHECK_IDENTICAL(out[0], Full(DType::kF32, {3}, 0));
        CHECK_IDENTICAL(out[1], Full(DType::kF32, {3}, 2));
      });
}

TEST_CASE("layer_norm: the reference's dx is the gradient of y") {
  for (const Shape& shape : {Shape{1, 1}, Shape{3, 7}, Shape{2, 16}}) {
    const int64_t n = shape[0], d = shape[1];
    Tensor x = Normal(DType::kF64, shape, 1);
    const Tensor w = Normal(DType::kF64, {d}, 2), b = Normal(DType::kF64, {d}, 4);
    const Tensor g = Normal(DType::kF64, shape, 3), y(DType::kF64, shape), dx(DType::kF64, shape);
    const Tensor mean(DType::kF64, {n}), rstd(DType::kF64, {n});
    const auto loss = [&] {
      Run(ReferenceBackend(), LayerNormForwardArgs{x, w, b, 0.1f, y, mean, rstd});
      return Project(y, g);
    };
    loss();
    Run(ReferenceBackend(), LayerNormBackwardArgs{x, w, mean, rstd, g, dx});
    CheckGradient("dx", x, dx, loss);
  }
}

}  // namespace
}  // namespace lora::test
