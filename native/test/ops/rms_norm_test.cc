#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "test/support/tested.h"

namespace lora::test {
namespace {

struct RmsNormCase {
  int64_t n, d;
  DType x, weight, y;
  float offset = 0;
};

std::vector<RmsNormCase> RmsNormCases() {
  std::vector<RmsNormCase> cases;
  const auto add = [&](int64_t n, int64_t d, float offset = 0) {
    cases.push_back({n, d, DType::kF32, DType::kF32, DType::kF32, offset});
    for (const DType act : {DType::kBF16, DType::kF16}) {
      if (act == DType::kF16 && !Tested().backend.f16_activations) continue;
      for (const DType x : {act, DType::kF32})
        for (const DType weight : {act, DType::kF32})
          cases.push_back({n, d, x, weight, act, offset});
    }
  };
  for (const int64_t d : {1, 2, 3, 7, 8, 15, 16, 17, 63, 64, 65, 127, 129, 1000}) add(3, d);
  for (const int64_t d : {1024, 1025, 2056}) add(9, d);  // the widest row of a warp, of a block
  for (const int64_t d : {3, 65, 1000, 1025}) add(3, d, 1);
  add(0, 64);
  add(1, 4096);
  add(Tested().emulated ? 19 : 173, 577);  // enough for three threads
  return cases;
}

// Returns the additions in the longest chain of a sum of d terms on the CPU's narrowest target (4
// vectors of 4 lanes), then the tree over vectors and lanes. A GPU's chains are shorter.
double Chain(int64_t d) { return static_cast<double>(d) / 16 + 8; }

// Bounds the error of rstd: all squares are positive, and the root halves their error.
double RstdError(int64_t d) { return kU * (Chain(d) / 2 + 2); }

std::vector<double> RmsNormBounds(const RmsNormCase& c, const Tensor& y) {
  std::vector<double> bounds;
  const double sum = c.offset == 0 ? 0 : kU;  // of the offset and the weight
  for (const double e : y.Values())
    bounds.push_back((RstdError(c.d) + 2 * kU + sum) * std::fabs(e) + RoundingBound(c.y, e));
  return bounds;
}

std::vector<double> RmsNormBackwardBounds(const RmsNormCase& c, const Tensor& x, const Tensor& w,
                                          const Tensor& rstd, const Tensor& g, const Tensor& dx) {
  std::vector<double> bounds;
  const auto pushed = [&](int64_t row, int64_t i) {
    return std::fabs(g.at(row * c.d + i) * (c.offset + w.at(i)));
  };
  const double sum = c.offset == 0 ? 0 : 1;
  for (int64_t row = 0; row < c.n; ++row) {
    double terms = 0;
    for (int64_t i = 0; i < c.d; ++i) terms += pushed(row, i) * std::fabs(x.at(row * c.d + i));
    const double r = rstd.at(row), pull = r * r * terms / static_cast<double>(c.d);
    for (int64_t i = 0; i < c.d; ++i) {
      const int64_t at = row * c.d + i;
      bounds.push_back(
          r * kU *
              ((4 + sum) * pushed(row, i) + (Chain(c.d) + 8 + sum) * std::fabs(x.at(at)) * pull) +
          RoundingBound(c.x, dx.at(at)));
    }
  }
  return bounds;
}

constexpr float kEps = 1e-5f;

TEST_CASE("rms_norm: forward and backward") {
  for (const RmsNormCase& c : RmsNormCases()) {
    CAPTURE(c.n);
    CAPTURE(c.d);
    CAPTURE(NameOf(c.x));
    CAPTURE(NameOf(c.weight));
    CAPTURE(NameOf(c.y));
    CAPTURE(c.offset);
    const Tensor x = Normal(c.x, {c.n, c.d}, 1, 2), w = Normal(c.weight, {c.d}, 2);
    const Tensor g = Normal(c.y, {c.n, c.d}, 3);
    const Tensor y(c.y, {c.n, c.d}), rstd(DType::kF32, {c.n}), dx(c.x, {c.n, c.d});
    const auto reference = ReferenceBackend().create_context(1);
    Run(ReferenceBackend(), RmsNormForwardArgs{x, {}, w, kEps, {}, y, rstd, c.offset}, *reference);
    RunGradient(ReferenceBackend(),
                RmsNormBackwardArgs{x, w, rstd, g, {}, dx, {}, kEps, {}, c.offset}, c.y,
                *reference);
    const std::vector<double> y_bounds = RmsNormBounds(c, y);
    const std::vector<double> dx_bounds = RmsNormBackwardBounds(c, x, w, rstd, g, dx);
    OnEveryPath(
        [&](Context& context) {
          std::vector<Tensor> out = {Tensor(c.y, {c.n, c.d}), Tensor(DType::kF32, {c.n}),
                                     Tensor(c.y, {c.n, c.d}), Tensor(c.x, {c.n, c.d})};
          RunTested(RmsNormForwardArgs{x, {}, w, kEps, {}, out[0], out[1], c.offset}, context);
          RunTested(RmsNormForwardArgs{x, {}, w, kEps, {}, out[2], {}, c.offset}, context);
          const RmsNormBackwardArgs backward{x, w, rstd, g, {}, out[3], {}, kEps, {}, c.offset};
          RunGradient(Tested().backend, backward, c.y, context);
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

// y of the backward pass has the bits of the forward pass, also in place of g, and the gradients
// have theirs: out[1], out[3] and out[4].
void CheckOutputOfBackward(RmsNormBackwardArgs args, const std::vector<Tensor>& out,
                           Context& context) {
  const DType act = args.g.dtype;
  const Tensor y(act, args.g.shape), dx(args.x.dtype, args.g.shape), d_addend = y;
  Tensor g = y;
  if (args.g.bytes() > 0) std::memcpy(g.view().data, args.g.data, args.g.bytes());
  args.dx = dx;
  args.d_addend = d_addend;
  for (const auto& [from, to] : {std::pair{args.g, y.view()}, {g.view(), g.view()}}) {
    args.g = from;
    args.y = to;
    RunGradient(Tested().backend, args, act, context);
    CHECK_IDENTICAL(dx, out[3]);
    CHECK_IDENTICAL(d_addend, out[4]);
  }
  CHECK_IDENTICAL(y, out[1]);
  CHECK_IDENTICAL(g, out[1]);
}

TEST_CASE("rms_norm: of a sum, and the gradient of both") {
  for (const RmsNormCase& c : RmsNormCases()) {
    CAPTURE(c.n);
    CAPTURE(c.d);
    CAPTURE(NameOf(c.x));
    CAPTURE(NameOf(c.weight));
    CAPTURE(NameOf(c.y));
    CAPTURE(c.offset);
    const Shape shape{c.n, c.d};
    const Tensor x = Normal(c.x, shape, 1, 2), addend = Normal(c.y, shape, 4);
    const Tensor w = Normal(c.weight, {c.d}, 2), g = Normal(c.y, shape, 3);
    const Tensor g_sum = Normal(c.x, shape, 5, 0.5);
    const Tensor s(c.x, shape), y(c.y, shape), rstd(DType::kF32, {c.n});
    const Tensor of_y(c.x, shape), dx(c.x, shape);
    const auto reference = ReferenceBackend().create_context(1);
    Run(ReferenceBackend(), RmsNormForwardArgs{x, addend, w, kEps, s, y, rstd, c.offset},
        *reference);
    RunGradient(ReferenceBackend(),
                RmsNormBackwardArgs{s, w, rstd, g, {}, of_y, {}, kEps, {}, c.offset}, c.y,
                *reference);
    RunGradient(ReferenceBackend(),
                RmsNormBackwardArgs{s, w, rstd, g, g_sum, dx, {}, kEps, {}, c.offset}, c.y,
                *reference);
    std::vector<double> bounds = RmsNormBackwardBounds(c, s, w, rstd, g, of_y);
    for (int64_t i = 0; i < dx.numel(); ++i)
      bounds[static_cast<size_t>(i)] += kU * std::fabs(dx.at(i)) + RoundingBound(c.x, dx.at(i));
    OnEveryPath(
        [&](Context& context) {
          std::vector<Tensor> out = {Tensor(c.x, shape), Tensor(c.y, shape),
                                     Tensor(DType::kF32, {c.n}), Tensor(c.x, shape),
                                     Tensor(c.y, shape)};
          RunTested(RmsNormForwardArgs{x, addend, w, kEps, out[0], out[1], out[2], c.offset},
                    context);
          const RmsNormBackwardArgs backward{s,      w,      out[2], g,  g_sum,
                                             out[3], out[4], kEps,   {}, c.offset};
          RunGradient(Tested().backend, backward, c.y, context);
          CheckOutputOfBackward(backward, out, context);
          // The same of a sum that is there, and of dx as it was rounded.
          const Tensor norm(c.y, shape), d_addend(c.y, shape);
          RunTested(RmsNormForwardArgs{s, {}, w, kEps, {}, norm, {}, c.offset}, context);
          CHECK_IDENTICAL(out[1], norm);
          RunTested(UnaryArgs{UnaryKind::kCopy, 1, out[3], d_addend}, context);
          CHECK_IDENTICAL(out[4], d_addend);
          return out;
        },
        [&](const std::vector<Tensor>& out) {
          CHECK_IDENTICAL(out[0], s);
          CHECK_CLOSE(out[1], y, RmsNormBounds(c, y));
          CHECK_CLOSE(out[2], rstd, (Tolerance{0, RstdError(c.d) + kU}));
          CHECK_CLOSE(out[3], dx, bounds);
        });
  }
}

TEST_CASE("rms_norm: rows of nothing have the rstd of eps") {
  const Tensor x(DType::kF32, {3, 0}), w(DType::kF32, {0});
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> rstd = {Tensor(DType::kF32, {3})};
        RunTested(RmsNormForwardArgs{x, {}, w, 0.25f, {}, x, rstd[0]}, context);
        return rstd;
      },
      [&](const std::vector<Tensor>& rstd) {
        CHECK_IDENTICAL(rstd[0], Full(DType::kF32, {3}, 2));
      });
}

TEST_CASE("rms_norm: no offset leaves a weight of −0 its sign") {
  const Tensor x = Full(DType::kF32, {1, 3}, 2), w = Full(DType::kF32, {3}, -0.0);
  const Tensor rstd = Full(DType::kF32, {1}, 0.5), g = Full(DType::kF32, {1, 3}, 1);
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> out = {x, x};
        RunTested(RmsNormForwardArgs{x, {}, w, 0, {}, out[0], {}}, context);
        RunTested(RmsNormBackwardArgs{x, w, rstd, g, {}, Tensor(x), {}, 0, out[1]}, context);
        return out;
      },
      [&](const std::vector<Tensor>& out) {
        for (const Tensor& y : out) CHECK(std::signbit(y.at(2)));
      });
}

}  // namespace
}  // namespace lora::test
