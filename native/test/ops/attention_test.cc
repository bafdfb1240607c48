// Holds attention_forward against the reference in f64, within the bounds of attention_cases.h, and
// on whole numbers without any.
#include <cmath>
#include <limits>
#include <vector>

#include "test/support/attention_cases.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

using namespace attention;

void CheckForward(const AttentionCase& c, const Operands& o) {
  static int turn = 0;
  CAPTURE(c.Name());
  const Operands wide = Widened(o);
  const Shape lse_shape{c.batch, c.q_heads, c.queries};
  const Tensor y(DType::kF64, o.q.shape()), lse(DType::kF32, lse_shape);
  Run(ReferenceBackend(), ForwardArgs(c, wide, y, lse));
  auto bounds_of_path =
      OfPath(c, [&](const Rounding& rounding) { return BoundsOf(c, o, y, lse, rounding); });
  OnPathsInTurn(
      [&](Context& context) {
        std::vector<Tensor> out = {Tensor(c.dtype, y.shape()), Tensor(DType::kF32, lse_shape)};
        RunTested(ForwardArgs(c, o, out[0], out[1]), context);
        return out;
      },
      [&](const std::vector<Tensor>& out) {
        const ForwardBounds& bounds = bounds_of_path();
        CHECK_CLOSE(out[0], y, bounds.y);
        CHECK_CLOSE(out[1], lse, bounds.lse);
        if (Tested().emulated && turn++ % 3 != 0) return;
        const Tensor without_lse(c.dtype, y.shape());
        RunTested(ForwardArgs(c, o, without_lse, Tensor()), *NextContext());
        CHECK_IDENTICAL(without_lse, out[0]);
      });
}

TEST_CASE("attention agrees with the reference") {
  for (const AttentionCase& c : AttentionCases()) CheckForward(c, Operands(c));
}

TEST_CASE("attention takes whole values exactly") {
  for (const DType dtype : Activations()) {
    // Row (i, h) asks for key `wanted` alone: its score is 4096, all others are 0.
    const int64_t keys = 100, heads = 4, kv_heads = 2, d = 128;
    const auto wanted = [&](int64_t i, int64_t h) { return i * (7 * h + 3) / 24; };
    Tensor q = Zeros(dtype, {1, keys, heads, d}), k = Zeros(dtype, {1, keys, kv_heads, d});
    const Tensor v = Integers(dtype, k.shape(), 1, -99, 99);
    Tensor expected(dtype, q.shape());
    for (int64_t j = 0; j < keys * kv_heads; ++j) k.Set(j * d + j / kv_heads, 64);
    for (int64_t i = 0; i < keys; ++i)
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t row = (i * heads + h) * d, key = wanted(i, h);
        q.Set(row + key, 64);
        for (int64_t c = 0; c < d; ++c)
          expected.Set(row + c, v.at((key * kv_heads + h / 2) * d + c));
      }
    AttentionForwardArgs args;
    args.q = q;
    args.k = k;
    args.v = v;
    OnPathsInTurn(
        [&](Context& context) {
          std::vector<Tensor> y = {Tensor(dtype, q.shape()), Tensor(dtype, q.shape())};
          args.y = y[0];
          args.window = 0;
          RunTested(args, context);
          // With a window of one key there is nothing to choose.
          args.y = y[1];
          args.window = 1;
          RunTested(args, context);
          return y;
        },
        [&](const std::vector<Tensor>& y) {
          CHECK_IDENTICAL(y[0], expected);
          for (int64_t i = 0; i < q.numel(); ++i) {
            const int64_t position = i / (heads * d), h = i / d % heads;
            REQUIRE(y[1].at(i) == v.at((position * kv_heads + h / 2) * d + i % d));
          }
        });
  }
}

TEST_CASE("attention: a query that sees no key gives zero") {
  for (const DType dtype : Activations()) {
    for (const int64_t queries : {3, 40, 70}) {
      AttentionCase c;
      c.dtype = dtype;
      c.queries = queries;
      c.q_heads = 2;
      Operands o(c);
      o.key_begin = Tensor(DType::kI32, {1, queries});
      for (int64_t i = 0; i < queries; ++i) o.key_begin.Set(i, i == 1 ? 2 : -3);
      OnPathsInTurn(
          [&](Context& context) {
            std::vector<Tensor> out = {Tensor(dtype, o.q.shape()),
                                       Tensor(DType::kF32, {1, 2, queries})};
            RunTested(ForwardArgs(c, o, out[0], out[1]), context);
            return out;
          },
          [&](const std::vector<Tensor>& out) {
            for (int64_t i = 0; i < o.q.numel(); ++i) {
              CHECK(std::isfinite(out[0].at(i)));
              if (i / (2 * c.d) == 1) CHECK(out[0].at(i) == 0);
            }
            CHECK(out[1].at(1) == -std::numeric_limits<double>::infinity());
            CHECK(std::isfinite(out[1].at(2)));
          });
    }
  }
}

TEST_CASE("attention: sinks far above and far below the scores") {
  for (const DType dtype : Activations()) {
    for (const int64_t queries : {3, 70}) {
      AttentionCase c;
      c.dtype = dtype;
      c.queries = queries;
      c.q_heads = 3;
      c.sinks = true;
      Operands o(c);
      for (const int64_t h : {0, 1, 2}) o.sinks.Set(h, h == 0 ? 300 : h == 1 ? -300 : 0);
      Operands without = o;
      without.sinks = Tensor();
      OnPathsInTurn(
          [&](Context& context) {
            std::vector<Tensor> out = {
                Tensor(dtype, o.q.shape()), Tensor(DType::kF32, {1, 3, queries}),
                Tensor(dtype, o.q.shape()), Tensor(DType::kF32, {1, 3, queries})};
            RunTested(ForwardArgs(c, o, out[0], out[1]), context);
            RunTested(ForwardArgs(c, without, out[2], out[3]), context);
            return out;
          },
          [&](const std::vector<Tensor>& out) {
            for (int64_t i = 0; i < o.q.numel(); ++i) {
              const int64_t h = i / c.d % 3;
              if (h == 0) REQUIRE(std::fabs(out[0].at(i)) < 1e-30);
              if (h == 1) REQUIRE(out[0].at(i) == out[2].at(i));
            }
            for (int64_t i = 0; i < queries; ++i) {
              CHECK(std::fabs(out[1].at(i) - 300) < 1e-3);
              CHECK(out[1].at(queries + i) == out[3].at(queries + i));
            }
          });
    }
  }
}

TEST_CASE("attention: large scores neither overflow nor lose their order") {
  AttentionCase c;
  c.queries = 70;
  c.d = 16;
  Operands o(c);
  o.q = Normal(c.dtype, o.q.shape(), 5, 60);
  o.k = Normal(c.dtype, o.k.shape(), 6, 60);
  for (const float sign : {1.0f, -1.0f}) {
    o.scale = sign * std::fabs(o.scale);
    const Operands wide = Widened(o);
    const Tensor expected(DType::kF64, o.q.shape()), lse(DType::kF32, {1, 1, 70});
    Run(ReferenceBackend(), ForwardArgs(c, wide, expected, lse));
    Operands positive = o;  // the bounds are of |scale|
    if (sign < 0) {
      positive.scale = -o.scale;
      positive.k = Zeros(c.dtype, o.k.shape());
      for (int64_t i = 0; i < o.k.numel(); ++i) positive.k.Set(i, -o.k.at(i));
    }
    const ForwardBounds bounds = BoundsOf(c, positive, expected, lse);
    OnPathsInTurn(
        [&](Context& context) {
          std::vector<Tensor> y = {Tensor(c.dtype, o.q.shape())};
          RunTested(ForwardArgs(c, o, y[0], Tensor()), context);
          return y;
        },
        [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], expected, bounds.y); });
  }
}

TEST_CASE("attention: a NaN in a key reaches the queries that see it") {
  for (const DType dtype : Activations()) {
    for (const int64_t queries : {2, 40}) {
      AttentionCase c;
      c.dtype = dtype;
      c.queries = queries;
      Operands o(c);
      o.k.Set(c.d, std::numeric_limits<double>::quiet_NaN());  // key 1
      OnPathsInTurn(
          [&](Context& context) {
            std::vector<Tensor> out = {Tensor(dtype, o.q.shape()),
                                       Tensor(DType::kF32, {1, 1, queries})};
            RunTested(ForwardArgs(c, o, out[0], out[1]), context);
            return out;
          },
          [&](const std::vector<Tensor>& out) {
            for (int64_t i = 0; i < o.q.numel(); ++i) CHECK(std::isnan(out[0].at(i)) == (i >= c.d));
          });
    }
  }
}

TEST_CASE("attention of nothing is nothing") {
  AttentionCase c;
  c.queries = 0;
  const Operands o(c);
  const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {1, 1, 0});
  RunTested(ForwardArgs(c, o, y, lse), *NextContext());
}

}  // namespace
}  // namespace lora::test
