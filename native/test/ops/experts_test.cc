// Routing and the products of experts: against the reference, and against lora_linear of the rows
// of each expert, bit for bit.
#include <cmath>
#include <limits>
#include <vector>

#include "core/error.h"
#include "core/ops/expert_calls.h"
#include "test/support/gradient.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

struct Routed {
  Tensor weights, experts, order, places, offsets;
  Routed(int64_t n, int64_t count, int64_t k, DType dtype = DType::kF32)
      : weights(dtype, {n, k}),
        experts(DType::kI32, {n, k}),
        order(DType::kI32, {n * k}),
        places(DType::kI32, {n * k}),
        offsets(DType::kI32, {count + 1}) {}
  std::vector<Tensor> List() const { return {weights, experts, order, places, offsets}; }
};

RouteForwardArgs RouteOf(const Tensor& logits, int64_t k, bool among, const Routed& to) {
  return {logits, k, among, to.weights, to.experts, to.order, to.places, to.offsets};
}

void CheckRoute(const Tensor& logits, int64_t k, bool among) {
  CAPTURE(Text(logits.shape()));
  CAPTURE(k);
  CAPTURE(among);
  const int64_t n = logits.shape()[0], count = logits.shape()[1];
  const Routed expected(n, count, k);
  Run(ReferenceBackend(), RouteOf(logits, k, among, expected));
  OnPathsInTurn(
      [&](Context& context) {
        const Routed got(n, count, k);
        RunTested(RouteOf(logits, k, among, got), context);
        return got.List();
      },
      [&](const std::vector<Tensor>& got) {
        for (size_t i = 1; i < got.size(); ++i) CHECK_IDENTICAL(got[i], expected.List()[i]);
        for (int64_t i = 0; i < n * k; ++i) {
          const double wanted = expected.weights.at(i);
          if (std::isnan(wanted))
            CHECK(std::isnan(got[0].at(i)));
          else
            CHECK(std::fabs(got[0].at(i) - wanted) <= 1e-6 * wanted + 1e-30);
        }
      });
}

TEST_CASE("route: as the reference on every path") {
  for (const int64_t n : {0, 1, 3, Tested().emulated ? 40 : 700}) {
    for (const int64_t count : {1, 2, 5, 64, 130}) {
      for (const int64_t k : {1, 2, 8}) {
        if (k > count || (Tested().emulated && n * count > 3000)) continue;
        for (const bool among : {false, true})
          CheckRoute(Normal(DType::kF32, {n, count}, 5, 2), k, among);
      }
    }
  }
}

TEST_CASE("route: of equal logits the lower index, NaN behind every number") {
  const Routed got(2, 4, 2);
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  const Tensor logits = Of(DType::kF32, {2, 4}, {1, 3, 3, 3, nan, -infinity, nan, -infinity});
  RunTested(RouteOf(logits, 2, true, got), *NextContext());
  CHECK(got.experts.Values() == std::vector<double>{1, 2, 1, 3});
  CHECK(got.order.Values() == std::vector<double>{0, 2, 1, 3});
  CHECK(got.places.Values() == std::vector<double>{0, 2, 1, 3});
  CHECK(got.offsets.Values() == std::vector<double>{0, 0, 2, 3, 4});
  CHECK(got.weights.at(0) == 0.5);
  CheckRoute(Full(DType::kF32, {9, 7}, 1), 3, false);
  CheckRoute(logits, 3, true);
}

TEST_CASE("route: the weights of the k alone are those of all, divided by their sum") {
  const Tensor logits = Normal(DType::kF32, {6, 9}, 2, 2);
  const Routed all(6, 9, 3), among(6, 9, 3);
  RunTested(RouteOf(logits, 3, false, all), *NextContext());
  RunTested(RouteOf(logits, 3, true, among), *NextContext());
  for (int64_t t = 0; t < 6; ++t) {
    double sum = 0;
    for (int64_t c = 0; c < 3; ++c) sum += all.weights.at(t * 3 + c);
    CHECK(sum < 0.99);
    for (int64_t c = 0; c < 3; ++c)
      CHECK(std::fabs(among.weights.at(t * 3 + c) - all.weights.at(t * 3 + c) / sum) < 1e-6);
  }
}

TEST_CASE("route_backward: as the reference on every path, whose gradient is that of differences") {
  for (const bool among : {false, true}) {
    CAPTURE(among);
    Tensor wide = Normal(DType::kF64, {4, 6}, 3);
    const Tensor g = Normal(DType::kF64, {4, 2}, 4), d(DType::kF64, {4, 6});
    const Routed routed(4, 6, 2, DType::kF64);
    Run(ReferenceBackend(), RouteOf(wide, 2, among, routed));
    Run(ReferenceBackend(), RouteBackwardArgs{wide, routed.experts, g, among, d});
    CheckGradient("logits", wide, d, [&] {
      const Routed again(4, 6, 2, DType::kF64);
      Run(ReferenceBackend(), RouteOf(wide, 2, among, again));
      return Project(again.weights, g);
    });
    for (const int64_t n : {0, 1, 5, Tested().emulated ? 20 : 500}) {
      const Tensor logits = Normal(DType::kF32, {n, 37}, 6, 2);
      Tensor experts(DType::kI32, {n, 4});
      for (int64_t i = 0; i < n * 4; ++i) experts.Set(i, static_cast<double>((i * 5 + i / 4) % 37));
      if (n > 1) experts.Set(5, -1);
      if (n > 1) experts.Set(6, 37);
      const Tensor gradient = Normal(DType::kF32, {n, 4}, 7), expected(DType::kF64, {n, 37});
      Run(ReferenceBackend(), RouteBackwardArgs{logits.As(DType::kF64), experts,
                                                gradient.As(DType::kF64), among, expected});
      OnPathsInTurn(
          [&](Context& context) {
            std::vector<Tensor> out = {Tensor(DType::kF32, {n, 37})};
            RunTested(RouteBackwardArgs{logits, experts, gradient, among, out[0]}, context);
            return out;
          },
          [&](const std::vector<Tensor>& out) {
            CHECK_CLOSE(out[0], expected, (Tolerance{3e-6, 3e-6}));
          });
    }
  }
}

// Rows, their places and weights, whole numbers so that sums are exact.
struct Assigned {
  Tensor x, rows, order, places, weights;
  Assigned(DType dtype, int64_t n, int64_t k, int64_t d)
      : x(Integers(dtype, {n, d}, 1)),
        rows(Integers(dtype, {n * k, d}, 2)),
        order(DType::kI32, {n * k}),
        places(DType::kI32, {n * k}),
        weights(Integers(DType::kF32, {n * k}, 3)) {
    const int64_t m = n * k, step = 7;
    for (int64_t j = 0; j < m; ++j) {
      const int64_t a = m % step == 0 ? m - 1 - j : j * step % m;
      order.Set(j, static_cast<double>(a));
      places.Set(a, static_cast<double>(j));
    }
  }
};

template <class F>
void CheckExact(const F& run) {
  const std::vector<Tensor> expected = [&] {
    const auto context = ReferenceBackend().create_context(1);
    return run(ReferenceBackend(), *context);
  }();
  OnPathsInTurn([&](Context& context) { return run(Tested().backend, context); },
                [&](const std::vector<Tensor>& out) {
                  for (size_t i = 0; i < out.size(); ++i) CHECK_IDENTICAL(out[i], expected[i]);
                });
}

TEST_CASE("spread_rows, combine_rows, row_dots: as the reference, with weights and without") {
  for (const DType dtype : Activations()) {
    for (const int64_t n : {0, 1, 5, Tested().emulated ? 9 : 90}) {
      for (const int64_t d : {0, 1, 7, 64, Tested().emulated ? 130 : 1100}) {
        for (const int64_t k : {1, 2, 3}) {
          CAPTURE(NameOf(dtype));
          CAPTURE(n);
          CAPTURE(d);
          CAPTURE(k);
          const Assigned a(dtype, n, k, d);
          CheckExact([&](const Backend& backend, Context& context) {
            std::vector<Tensor> out = {Tensor(dtype, {n * k, d}), Tensor(dtype, {n * k, d}),
                                       Tensor(dtype, {n, d}), Tensor(dtype, {n, d})};
            Run(backend, SpreadRowsArgs{a.x, a.order, {}, out[0]}, context);
            Run(backend, SpreadRowsArgs{a.x, a.order, a.weights, out[1]}, context);
            Run(backend, CombineRowsArgs{a.rows, a.places, {}, k, out[2]}, context);
            Run(backend, CombineRowsArgs{a.rows, a.places, a.weights, k, out[3]}, context);
            if (dtype == DType::kF16) return out;
            out.emplace_back(DType::kF32, Shape{n * k});
            Run(backend, RowDotsArgs{a.x, a.rows, a.places, out[4]}, context);
            return out;
          });
        }
      }
    }
  }
}

TEST_CASE("spread_rows, combine_rows, row_dots: NaN where an assignment or a place is none") {
  Assigned a(DType::kF32, 3, 2, 5);
  const Tensor order = Ints({6}, {0, 6, -1, 3, 1, 2});
  const Tensor y(DType::kF32, {6, 5}), sum(DType::kF32, {3, 5}), dots(DType::kF32, {6});
  const auto context = NextContext();
  RunTested(SpreadRowsArgs{a.x, order, {}, y}, *context);
  RunTested(CombineRowsArgs{a.rows, order, {}, 2, sum}, *context);
  RunTested(RowDotsArgs{a.x, a.rows, order, dots}, *context);
  for (int64_t i = 0; i < 6; ++i) {
    CHECK(std::isnan(y.at(i * 5)) == (i == 1 || i == 2));
    CHECK(std::isnan(dots.at(i)) == (i == 1 || i == 2));
  }
  CHECK(std::isnan(sum.at(4)));
  CHECK(std::isnan(sum.at(9)));
  CHECK(!std::isnan(sum.at(14)));
}

// Experts with these numbers of rows.
struct Experts {
  int64_t m = 0, out, in, r;
  Tensor x, g, up, down, offsets;
  std::vector<Tensor> biases;
  std::vector<Tensor> weights;
  std::vector<FrozenWeight> packed;

  Experts(DType dtype, const std::vector<int64_t>& counts, int64_t out, int64_t in, int64_t r,
          bool bias)
      : out(out), in(in), r(r) {
    const auto count = static_cast<int64_t>(counts.size());
    offsets = Tensor(DType::kI32, {count + 1});
    offsets.Set(0, 0);
    for (int64_t e = 0; e < count; ++e) {
      m += counts[static_cast<size_t>(e)];
      offsets.Set(e + 1, static_cast<double>(m));
      weights.push_back(Integers(dtype, {out, in}, static_cast<uint64_t>(10 + e)));
      if (bias) biases.push_back(Integers(dtype, {out}, static_cast<uint64_t>(40 + e)));
    }
    x = Integers(dtype, {m, in}, 1);
    g = Integers(dtype, {m, out}, 2);
    if (r == 0) return;
    up = Integers(DType::kF32, {count, out, r}, 3);
    down = Integers(DType::kF32, {count, r, in}, 4);
  }
  std::vector<Expert> Parts(const Backend& backend, Context& context) {
    packed.clear();
    for (const Tensor& w : weights) packed.emplace_back(backend, w, context);
    std::vector<Expert> parts;
    for (size_t e = 0; e < weights.size(); ++e)
      parts.push_back({packed[e].view(), biases.empty() ? TensorView() : biases[e].view()});
    return parts;
  }
  // y, h, dx, dUp, dDown and dw, without what is absent.
  std::vector<Tensor> All(const Backend& backend, Context& context, LinearPhase phase) {
    const std::vector<Expert> parts = Parts(backend, context);
    const DType dtype = x.dtype();
    std::vector<Tensor> made;
    const Tensor y(dtype, {m, out}), dx(dtype, {m, in});
    const auto count = static_cast<int64_t>(weights.size());
    const Tensor dw(DType::kF32, {count, out, in});
    Tensor h, d_up, d_down;
    if (r > 0) {
      h = Tensor(DType::kF32, {m, r});
      d_up = Tensor(DType::kF32, up.shape());
      d_down = Tensor(DType::kF32, down.shape());
    }
    Run(backend, RoutedLinearForwardArgs{x, offsets, parts, up, down, 2, phase, y, h}, context);
    if (dtype == DType::kF16) return {y};
    Run(backend, RoutedLinearBackwardArgs{x, offsets, parts, up, down, 2, g, h, dx, d_up, d_down},
        context);
    Run(backend, RoutedWeightsArgs{x, offsets, g, dw}, context);
    if (r == 0) return {y, dx, dw};
    return {y, h, dx, d_up, d_down, dw};
  }
};

TEST_CASE(
    "routed_linear: forward and gradients as the reference, experts without rows among them") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const LinearPhase phase :
         {LinearPhase::kAuto, LinearPhase::kPrefill, LinearPhase::kDecode}) {
      for (const auto& counts : std::vector<std::vector<int64_t>>{
               {3}, {0, 2, 0}, {0, 0}, {1, 5, 0, 9}, {17, 0, 1, 2, 70}}) {
        for (const int64_t r : {0, 1, 5}) {
          const bool large = counts.size() == 5;
          if (large && (r == 1 || (Tested().emulated && phase == LinearPhase::kDecode))) continue;
          CAPTURE(NameOf(dtype));
          CAPTURE(static_cast<int>(phase));
          CAPTURE(counts.size());
          CAPTURE(r);
          // Small enough for sums that bf16 holds.
          Experts experts(dtype, counts, large ? 33 : 7, 9, r, r != 1);
          CheckExact([&](const Backend& backend, Context& context) {
            return experts.All(backend, context, phase);
          });
        }
      }
    }
  }
}

TEST_CASE("routed_linear: the bits of lora_linear of the rows of each expert") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const LinearPhase phase : {LinearPhase::kPrefill, LinearPhase::kDecode}) {
      Experts experts(dtype, {0, 3, 1, 6}, 40, 33, 4, true);
      experts.x = Normal(dtype, {10, 33}, 8);
      for (Tensor& w : experts.weights) w = Normal(dtype, {40, 33}, 9);
      const auto context = NextContext();
      const std::vector<Expert> parts = experts.Parts(Tested().backend, *context);
      const Tensor y(dtype, {10, 40}), alone(dtype, {10, 40});
      const RoutedLinearForwardArgs args{
          experts.x, experts.offsets, parts, experts.up, experts.down, 2, phase, y, {}};
      RunTested(args, *context);
      for (int64_t e = 0; e < 4; ++e) {
        const auto at = static_cast<int64_t>(experts.offsets.at(e));
        const auto rows = static_cast<int64_t>(experts.offsets.at(e + 1)) - at;
        LoraLinearForwardArgs call = CallOfExpert(args, e, at, rows);
        call.y = {RowsOf(alone, at, rows)};
        if (rows > 0) RunTested(call, *context);
      }
      CHECK_IDENTICAL(y, alone);
    }
  }
}

TEST_CASE("routed_linear: offsets that are none fail before anything is written") {
  for (const auto& bad :
       std::vector<std::vector<int32_t>>{{1, 2, 5}, {0, 6, 5}, {0, -1, 5}, {0, 2, 4}, {0, 2, 6}}) {
    Experts experts(DType::kF32, {2, 3}, 4, 3, 0, false);
    const auto context = NextContext();
    const std::vector<Expert> parts = experts.Parts(Tested().backend, *context);
    const Tensor offsets = Ints({3}, bad);
    const Tensor y(DType::kF32, {5, 4});
    const RoutedLinearForwardArgs args{experts.x,          offsets, parts, {}, {}, 1,
                                       LinearPhase::kAuto, y,       {}};
    try {
      RunTested(args, *context);
      FAIL("expected an error");
    } catch (const Error& error) {
      CHECK(error.code() == "ERR_DATA");
    }
    CHECK(std::isnan(y.at(0)));
  }
}

}  // namespace
}  // namespace lora::test
