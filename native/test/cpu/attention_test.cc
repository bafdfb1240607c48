// attention on the CPU against the reference in f64, on every instruction set that is usable here,
// within the bounds of attention_cases.h.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "core/ops/backend.h"
#include "test/support/attention_cases.h"
#include "test/support/close.h"
#include "test/support/run.h"
#include "test/support/simd_targets.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

using namespace attention;

// fn(context) on every usable instruction set with 1, 2 and 3 threads.
template <class Fn>
void OnEveryTarget(const Fn& fn) {
  ForEachSimdTarget([&] {
    for (const int threads : {1, 2, 3}) {
      CAPTURE(threads);
      const std::unique_ptr<Context> context = CpuBackend().create_context(threads);
      fn(*context);
    }
  });
}

void CheckForward(const AttentionCase& c) {
  CAPTURE(c.Name());
  const Operands operands(c), wide = Widened(operands);
  const Shape lse_shape{c.batch, c.q_heads, c.queries};
  const Tensor y(DType::kF64, operands.q.shape()), lse(DType::kF32, lse_shape);
  Run(ReferenceBackend(), ForwardArgs(c, wide, y, lse));
  const ForwardBounds bounds = BoundsOf(c, operands, y, lse);
  OnEveryTarget([&](Context& context) {
    const Tensor y1(c.dtype, y.shape()), lse1(DType::kF32, lse_shape);
    Run(CpuBackend(), ForwardArgs(c, operands, y1, lse1), context);
    CHECK_CLOSE(y1, y, bounds.y);
    CHECK_CLOSE(lse1, lse, bounds.lse);
    CHECK((y1.intact() && lse1.intact()));
    const Tensor y2(c.dtype, y.shape());
    Run(CpuBackend(), ForwardArgs(c, operands, y2, Tensor()), context);
    CHECK_IDENTICAL(y2, y1);
  });
}

void CheckBackward(const AttentionCase& c) {
  CAPTURE(c.Name());
  const Operands operands(c), wide = Widened(operands);
  const Tensor y(c.dtype, operands.q.shape()), lse(DType::kF32, {c.batch, c.q_heads, c.queries});
  Run(ReferenceBackend(), ForwardArgs(c, operands, y, lse));
  const Gradients expected(DType::kF64, operands);
  Run(ReferenceBackend(), BackwardArgs(c, wide, y.As(DType::kF64), lse, expected));
  const GradientBounds bounds = BoundsOf(c, operands, y, lse, expected);
  OnEveryTarget([&](Context& context) {
    const Gradients first(c.dtype, operands), second(c.dtype, operands);
    Run(CpuBackend(), BackwardArgs(c, operands, y, lse, first), context);
    CHECK_CLOSE(first.dq, expected.dq, bounds.dq);
    CHECK_CLOSE(first.dk, expected.dk, bounds.dk);
    CHECK_CLOSE(first.dv, expected.dv, bounds.dv);
    CHECK((first.dq.intact() && first.dk.intact() && first.dv.intact()));
    Run(CpuBackend(), BackwardArgs(c, operands, y, lse, second), context);
    CHECK_IDENTICAL(second.dq, first.dq);
    CHECK_IDENTICAL(second.dk, first.dk);
    CHECK_IDENTICAL(second.dv, first.dv);
  });
}

// Every length meets every head dim; groups, windows, documents and batches go round.
std::vector<AttentionCase> Cases() {
  struct Heads {
    int64_t q, kv;
  };
  const std::vector<Heads> heads = {{1, 1}, {4, 2}, {9, 3}};
  const std::vector<int64_t> windows = {0, 1, 5, 12};
  std::vector<AttentionCase> cases;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    size_t n = dtype == DType::kF32 ? 0 : 1;
    for (const int64_t queries : {1, 3, 7, 63, 64, 65, 130}) {
      for (const int64_t d : {8, 12, 16, 24, 64, 80, 128}) {
        AttentionCase c;
        c.dtype = dtype;
        c.queries = queries;
        c.d = d;
        c.q_heads = heads[n % heads.size()].q;
        if (queries > 65 && c.q_heads == 9) c.q_heads = 3;  // the reference is slow
        c.kv_heads = heads[n % heads.size()].kv;
        c.window = n % 5 == 4 ? 0 : windows[n % 5];
        c.key_begin = n % 4 == 3;
        c.batch = queries < 60 ? 2 : 1;
        cases.push_back(c);
        ++n;
      }
    }
    for (const int64_t d : {1, 7, 33, 255, 256}) {
      AttentionCase c;
      c.dtype = dtype;
      c.queries = 20;
      c.q_heads = 2;
      c.kv_heads = 2;
      c.d = d;
      cases.push_back(c);
    }
  }
  return cases;
}

TEST_CASE("attention agrees with the reference") {
  for (const AttentionCase& c : Cases()) CheckForward(c);
}

TEST_CASE("attention's gradients agree with the reference") {
  for (const AttentionCase& c : Cases()) CheckBackward(c);
}

TEST_CASE("attention continues from a cache") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const std::vector<AttentionCase> cases = {
        {dtype, 1, 1, 1, 1, 16, 0, 0, 9},         {dtype, 1, 1, 9, 3, 64, 0, 127, 0},
        {dtype, 2, 1, 9, 3, 64, 0, 128, 200},     {dtype, 3, 1, 4, 2, 12, 5, 300, 0},
        {dtype, 1, 1, 8, 1, 80, 12, 517, 600},    {dtype, 1, 2, 4, 1, 13, 0, 255, 0},
        {dtype, 1, 3, 4, 2, 128, 0, 61, 64},      {dtype, 1, 5, 9, 3, 24, 12, 400, 512},
        {dtype, 2, 65, 4, 2, 16, 0, 100, 0},      {dtype, 1, 7, 1, 1, 8, 5, 63, 80},
        {dtype, 1, 1, 9, 3, 64, 0, 300, 0, true}, {dtype, 1, 30, 3, 1, 7, 0, 20, 0, true},
    };
    for (const AttentionCase& c : cases) CheckForward(c);
  }
}

TEST_CASE("attention from a cache: one key may outweigh all others, wherever it lies") {
  // exp of the difference of its score to theirs, 200, is no f32.
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t loud : {3, 130, 400, 520}) {
      CAPTURE(loud);
      const AttentionCase c{dtype, 1, 1, 2, 1, 16, 0, 520, 0};
      Operands o(c);
      o.q = Full(dtype, o.q.shape(), 1);
      for (int64_t n = 0; n < c.d; ++n) o.k.Set(loud * c.d + n, 200 / (o.scale * 16));
      const Operands wide = Widened(o);
      const Tensor expected(DType::kF64, o.q.shape()), lse(DType::kF32, {1, 2, 1});
      Run(ReferenceBackend(), ForwardArgs(c, wide, expected, lse));
      const ForwardBounds bounds = BoundsOf(c, o, expected, lse);
      OnEveryTarget([&](Context& context) {
        const Tensor y(dtype, o.q.shape()), lse1(DType::kF32, lse.shape());
        Run(CpuBackend(), ForwardArgs(c, o, y, lse1), context);
        CHECK_CLOSE(y, expected, bounds.y);
        CHECK_CLOSE(lse1, lse, bounds.lse);
      });
    }
  }
}

TEST_CASE("a query that sees no key gives zero and no gradient") {
  for (const int64_t queries : {3, 40}) {
    AttentionCase c;
    c.queries = queries;
    c.q_heads = 2;
    Operands o(c);
    o.key_begin = Tensor(DType::kI32, {1, queries});
    for (int64_t i = 0; i < queries; ++i) o.key_begin.Set(i, i == 1 ? 2 : 0);
    OnEveryTarget([&](Context& context) {
      const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {1, 2, queries});
      Run(CpuBackend(), ForwardArgs(c, o, y, lse), context);
      const Gradients d(c.dtype, o);
      Run(CpuBackend(), BackwardArgs(c, o, y, lse, d), context);
      for (int64_t i = 0; i < y.numel(); ++i) {
        const bool blind = i / (2 * c.d) == 1;
        CHECK(std::isfinite(y.at(i)));
        CHECK(std::isfinite(d.dq.at(i)));
        if (blind) CHECK((y.at(i) == 0 && d.dq.at(i) == 0));
      }
      CHECK(lse.at(1) == -std::numeric_limits<double>::infinity());
      CHECK(std::isfinite(lse.at(2)));
      for (int64_t i = 0; i < d.dk.numel(); ++i) CHECK(std::isfinite(d.dk.at(i) + d.dv.at(i)));
    });
  }
}

TEST_CASE("large scores neither overflow nor lose their order") {
  AttentionCase c;
  c.queries = 70;
  c.d = 16;
  Operands o(c);
  o.q = Normal(c.dtype, o.q.shape(), 5, 60);
  o.k = Normal(c.dtype, o.k.shape(), 6, 60);
  const Operands wide = Widened(o);
  const Tensor expected(DType::kF64, o.q.shape()), lse(DType::kF32, {1, 1, 70});
  Run(ReferenceBackend(), ForwardArgs(c, wide, expected, lse));
  const ForwardBounds bounds = BoundsOf(c, o, expected, lse);
  OnEveryTarget([&](Context& context) {
    const Tensor y(c.dtype, o.q.shape());
    Run(CpuBackend(), ForwardArgs(c, o, y, Tensor()), context);
    CHECK_CLOSE(y, expected, bounds.y);
  });
}

TEST_CASE("a NaN in a key reaches the queries that see it") {
  for (const int64_t queries : {2, 40}) {
    AttentionCase c;
    c.queries = queries;
    Operands o(c);
    o.k.Set(c.d, std::numeric_limits<double>::quiet_NaN());  // key 1
    OnEveryTarget([&](Context& context) {
      const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {1, 1, queries});
      Run(CpuBackend(), ForwardArgs(c, o, y, lse), context);
      for (int64_t i = 0; i < y.numel(); ++i) CHECK(std::isnan(y.at(i)) == (i >= c.d));
    });
  }
}

TEST_CASE("attention of nothing is nothing") {
  AttentionCase c;
  c.queries = 0;
  Operands o(c);
  const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {1, 1, 0});
  Run(CpuBackend(), ForwardArgs(c, o, y, lse), 2);
  const Gradients d(c.dtype, o);
  Run(CpuBackend(), BackwardArgs(c, o, y, lse, d), 2);
}

TEST_CASE("cache_append writes its positions and no others") {
  const Tensor src = Normal(DType::kBF16, {2, 3, 2, 5}, 1);
  Tensor cache = Full(DType::kBF16, {2, 7, 2, 5}, 9);
  CacheAppendArgs args;
  args.src = src;
  args.cache = cache;
  args.offset = 2;
  Run(CpuBackend(), args);
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t i = 0; i < 70; ++i) {
      const bool inside = i >= 20 && i < 50;
      CHECK(cache.at(b * 70 + i) == (inside ? src.at(b * 30 + i - 20) : 9.0));
    }
}

}  // namespace
}  // namespace lora::test
