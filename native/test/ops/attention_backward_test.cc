// Holds attention_backward against the reference in f64, within the bounds of attention_cases.h,
// and on whole numbers without any.
#include <cmath>
#include <utility>
#include <vector>

#include "test/support/attention_cases.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

using namespace attention;

constexpr DType kGradients[] = {DType::kF32, DType::kBF16};

void CheckBackward(const AttentionCase& c, const Operands& o) {
  CAPTURE(c.Name());
  const Operands wide = Widened(o);
  const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {c.batch, c.q_heads, c.queries});
  Run(ReferenceBackend(), ForwardArgs(c, o, y, lse));
  const Gradients expected(DType::kF64, o);
  Run(ReferenceBackend(), BackwardArgs(c, wide, y.As(DType::kF64), lse, expected));
  auto bounds_of_path = OfPath(
      c, [&](const Rounding& rounding) { return BoundsOf(c, o, y, lse, expected, rounding); });
  OnPathsInTurn(
      [&](Context& context) {
        Gradients d(c.dtype, o);
        RunTested(BackwardArgs(c, o, y, lse, d), context);
        return ListOf(std::move(d));
      },
      [&](const std::vector<Tensor>& d) {
        const GradientBounds& bounds = bounds_of_path();
        CHECK_CLOSE(d[0], expected.dq, bounds.dq);
        CHECK_CLOSE(d[1], expected.dk, bounds.dk);
        CHECK_CLOSE(d[2], expected.dv, bounds.dv);
      },
      true);
}

TEST_CASE("attention's gradients agree with the reference") {
  for (const AttentionCase& c : AttentionCases())
    if (c.dtype != DType::kF16) CheckBackward(c, Operands(c));
}

TEST_CASE("attention's gradients agree where the rows of a key are taken in parts") {
  for (const DType dtype : kGradients) {
    for (const AttentionCase& c : std::vector<AttentionCase>{
             {dtype, 1, 66, 16, 1, 8},
             {dtype, 1, 35, 8, 1, 200, 0, true},
         })
      CheckBackward(c, Operands(c));
  }
}

TEST_CASE("attention's gradients agree where tiles see none of some keys") {
  for (const DType dtype : kGradients) {
    AttentionCase c;
    c.dtype = dtype;
    c.queries = 250;
    c.key_begin = true;
    Operands o(c);
    // The second document never looks at the first; after it, some rows look at all.
    for (int64_t i = 0; i < c.queries; ++i)
      o.key_begin.Set(i, i < 70 ? 0 : i < 226 ? 70 : i % 3 == 0 ? 0 : i % 3 == 1 ? 65 : i);
    CheckBackward(c, o);
  }
}

TEST_CASE("attention's gradients in both directions agree where rows of a key are in parts") {
  for (const DType dtype : kGradients) {
    CheckBackward({dtype, 1, 70, 16, 1, 8, 0, false, 0, true},
                  Operands({dtype, 1, 70, 16, 1, 8, 0, false, 0, true}));
    const AttentionCase windowed{dtype, 1, 200, 2, 1, 16, 20, true, 0, true};
    CheckBackward(windowed, Operands(windowed));
  }
}

TEST_CASE("attention's gradients of whole numbers are exact") {
  for (const DType dtype : kGradients) {
    // Row (i, h) asks for key `wanted` alone: its score and lse are 4096, all other scores 0.
    const int64_t queries = 100, heads = 4, kv_heads = 2, d = 128;
    const auto wanted = [&](int64_t i, int64_t h) { return i * (7 * h + 3) / 24; };
    const Shape keys{1, queries, kv_heads, d}, rows{1, queries, heads, d};
    Tensor q = Zeros(dtype, rows), k = Zeros(dtype, keys), y(dtype, rows);
    Tensor dv = Zeros(DType::kF64, keys);
    const Tensor v = Integers(dtype, keys, 1), g = Integers(dtype, rows, 2);
    for (int64_t j = 0; j < queries * kv_heads; ++j) k.Set(j * d + j / kv_heads, 64);
    for (int64_t i = 0; i < queries; ++i)
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t row = (i * heads + h) * d, key = (wanted(i, h) * kv_heads + h / 2) * d;
        q.Set(row + wanted(i, h), 64);
        for (int64_t c = 0; c < d; ++c) {
          y.Set(row + c, v.at(key + c));
          dv.Set(key + c, dv.at(key + c) + g.at(row + c));
        }
      }
    AttentionBackwardArgs args;
    args.q = q;
    args.k = k;
    args.v = v;
    args.y = y;
    args.g = g;
    const Tensor lse = Full(DType::kF32, {1, heads, queries}, 4096);
    args.lse = lse;
    const auto run = [&](Context& context) {
      std::vector<Tensor> d = {Tensor(dtype, rows), Tensor(dtype, keys), Tensor(dtype, keys)};
      args.dq = d[0];
      args.dk = d[1];
      args.dv = d[2];
      RunTested(args, context);
      return d;
    };
    OnPathsInTurn(run, [&](const std::vector<Tensor>& d) {
      CHECK_IDENTICAL(d[2], dv.As(dtype));
      // p is 0 or 1 and g·v = D where it is 1: there is nothing to gain.
      for (int64_t i = 0; i < rows.numel(); ++i) REQUIRE(d[0].at(i) == 0);
      for (int64_t i = 0; i < keys.numel(); ++i) REQUIRE(d[1].at(i) == 0);
    });
    // With D = g·y smaller by 1 the slope of the wanted key is 1: y loses the first unit of g.
    Tensor one = Zeros(dtype, rows), less = y;
    for (int64_t i = 0; i < rows.numel() / d; ++i) {
      one.Set(i * d, 1);
      less.Set(i * d, y.at(i * d) - 1);
    }
    args.g = one;
    args.y = less;
    Tensor dq = Zeros(dtype, rows), dk = Zeros(DType::kF64, keys);
    for (int64_t i = 0; i < queries; ++i)
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t row = (i * heads + h) * d, key = (wanted(i, h) * kv_heads + h / 2) * d;
        for (int64_t c = 0; c < d; ++c) {
          dq.Set(row + c, k.at(key + c));
          dk.Set(key + c, dk.at(key + c) + q.at(row + c));
        }
      }
    OnPathsInTurn(run, [&](const std::vector<Tensor>& d) {
      CHECK_CLOSE(d[0], dq, Tolerance{});  // 0 and −0 are equal
      CHECK_IDENTICAL(d[1], dk.As(dtype));
    });
  }
}

TEST_CASE("attention: a query that sees no key gives no gradient") {
  for (const DType dtype : kGradients) {
    for (const int64_t queries : {3, 40, 70}) {
      AttentionCase c;
      c.dtype = dtype;
      c.queries = queries;
      c.q_heads = 2;
      Operands o(c);
      o.key_begin = Tensor(DType::kI32, {1, queries});
      for (int64_t i = 0; i < queries; ++i) o.key_begin.Set(i, i < 2 ? 2 : 0);
      const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {1, 2, queries});
      Run(ReferenceBackend(), ForwardArgs(c, o, y, lse));
      OnPathsInTurn(
          [&](Context& context) {
            Gradients d(c.dtype, o);
            RunTested(BackwardArgs(c, o, y, lse, d), context);
            return ListOf(std::move(d));
          },
          [&](const std::vector<Tensor>& d) {
            for (int64_t i = 0; i < d[0].numel(); ++i) {
              CHECK(std::isfinite(d[0].at(i)));
              if (i / (2 * c.d) < 2) CHECK(d[0].at(i) == 0);
            }
            for (int64_t i = 0; i < d[1].numel(); ++i) {
              CHECK(std::isfinite(d[1].at(i)));
              CHECK(std::isfinite(d[2].at(i)));
            }
          },
          true);
    }
  }
}

TEST_CASE("attention's gradients of nothing are nothing, of keys without queries zero") {
  const auto context = NextContext();
  AttentionCase c;
  c.queries = 0;
  const Operands o(c);
  const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {1, 1, 0});
  RunTested(BackwardArgs(c, o, y, lse, Gradients(c.dtype, o)), *context);

  c.queries = 5;
  c.q_heads = 0;
  c.kv_heads = 2;
  const Operands no_heads(c);
  const Tensor y1(c.dtype, no_heads.q.shape()), lse1(DType::kF32, {1, 0, 5});
  const Gradients d1(c.dtype, no_heads);
  RunTested(BackwardArgs(c, no_heads, y1, lse1, d1), *context);
  CHECK_IDENTICAL(d1.dk, Zeros(c.dtype, d1.dk.shape()));
  CHECK_IDENTICAL(d1.dv, Zeros(c.dtype, d1.dv.shape()));
}

}  // namespace
}  // namespace lora::test
