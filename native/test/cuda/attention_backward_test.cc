// attention_backward of the CUDA backend on the emulator against the reference in f64, within the
// bounds of attention_cases.h, and on whole numbers without any.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "test/support/attention_cases.h"
#include "test/support/close.h"
#include "test/support/run.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

using namespace attention;

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16};

// Tensor cores take p and ds as 16-bit numbers.
Rounding RoundingOf(DType dtype) { return {dtype == DType::kF32 ? 0 : 1.01 * UnitRoundoff(dtype)}; }

void CheckBackward(const AttentionCase& c, const Operands& operands, int turn) {
  CAPTURE(c.Name());
  const Operands wide = Widened(operands);
  const Tensor y(c.dtype, operands.q.shape()), lse(DType::kF32, {c.batch, c.q_heads, c.queries});
  Run(ReferenceBackend(), ForwardArgs(c, operands, y, lse));
  const Gradients expected(DType::kF64, operands);
  Run(ReferenceBackend(), BackwardArgs(c, wide, y.As(DType::kF64), lse, expected));
  const GradientBounds bounds = BoundsOf(c, operands, y, lse, expected, RoundingOf(c.dtype));
  MirrorContext context = NthContext(turn, turn % 2);
  const Gradients first(c.dtype, operands), second(c.dtype, operands);
  Run(MirroredCuda(), BackwardArgs(c, operands, y, lse, first), context);
  CHECK_CLOSE(first.dq, expected.dq, bounds.dq);
  CHECK_CLOSE(first.dk, expected.dk, bounds.dk);
  CHECK_CLOSE(first.dv, expected.dv, bounds.dv);
  CHECK((first.dq.intact() && first.dk.intact() && first.dv.intact()));
  if (turn % 3 != 0) return;
  MirrorContext other = NthContext(turn + 4, (turn + 1) % 2);
  Run(MirroredCuda(), BackwardArgs(c, operands, y, lse, second), other);
  CHECK_IDENTICAL(second.dq, first.dq);
  CHECK_IDENTICAL(second.dk, first.dk);
  CHECK_IDENTICAL(second.dv, first.dv);
}

TEST_CASE("cuda attention's gradients agree with the reference") {
  int turn = 0;
  for (const DType dtype : kDTypes) {
    const std::vector<AttentionCase> cases = {
        {dtype, 1, 1, 1, 1, 8},
        {dtype, 2, 3, 4, 2, 12},
        {dtype, 1, 7, 9, 3, 16, 5},
        {dtype, 1, 31, 2, 1, 64, 0, 0, 0, true},
        {dtype, 1, 32, 2, 2, 64, 12},
        {dtype, 2, 33, 3, 1, 33},
        {dtype, 1, 64, 1, 1, 64},
        {dtype, 1, 65, 2, 1, 24, 40},
        {dtype, 1, 97, 1, 1, 63, 0, 0, 0, true},
        {dtype, 1, 130, 1, 1, 7, 30},
        {dtype, 1, 22, 3, 1, 65},
        {dtype, 1, 66, 1, 1, 80, 1},
        {dtype, 1, 65, 1, 1, 128, 0, 0, 0, true},
        {dtype, 1, 18, 2, 2, 129},
        {dtype, 1, 33, 1, 1, 255, 20},
        {dtype, 1, 35, 2, 1, 256},
    };
    for (const AttentionCase& c : cases) CheckBackward(c, Operands(c), turn++);
  }
}

TEST_CASE("cuda attention's gradients agree where the rows of a key are taken in parts") {
  int turn = 0;
  for (const DType dtype : kDTypes) {
    const std::vector<AttentionCase> cases = {
        {dtype, 1, 66, 16, 1, 8},
        {dtype, 1, 35, 8, 1, 200, 0, 0, 0, true},
    };
    for (const AttentionCase& c : cases) {
      MirrorContext context = NthContext(0);
      const Operands o(c);
      const Tensor lse(DType::kF32, {c.batch, c.q_heads, c.queries});
      const Gradients d(c.dtype, o);
      const size_t bytes = MirroredCuda().op<AttentionBackwardArgs>().scratch_bytes(
          BackwardArgs(c, o, o.q, lse, d), context.threads());
      CHECK(bytes > 4 * static_cast<size_t>(lse.numel() + d.dk.numel()));  // there are parts
      CheckBackward(c, Operands(c), turn++);
    }
  }
}

TEST_CASE("cuda attention's gradients agree where tiles see none of some keys") {
  int turn = 0;
  for (const DType dtype : kDTypes) {
    AttentionCase c;
    c.dtype = dtype;
    c.queries = 250;
    c.key_begin = true;
    Operands o(c);
    // The second document never looks at the first; after it, some rows look at all.
    for (int64_t i = 0; i < c.queries; ++i)
      o.key_begin.Set(i, i < 70 ? 0 : i < 226 ? 70 : i % 3 == 0 ? 0 : i % 3 == 1 ? 65 : i);
    CheckBackward(c, o, turn++);
  }
}

TEST_CASE("cuda attention's gradients of whole numbers are exact") {
  int turn = 0;
  for (const DType dtype : kDTypes) {
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
    const Tensor dq(dtype, rows), dk(dtype, keys), dv1(dtype, keys);
    args.dq = dq;
    args.dk = dk;
    args.dv = dv1;
    MirrorContext context = NthContext(turn++);
    Run(MirroredCuda(), args, context);
    CHECK_IDENTICAL(dv1, dv.As(dtype));
    // p is 0 or 1 and g·v = D where it is 1: there is nothing to gain.
    for (int64_t i = 0; i < dq.numel(); ++i) REQUIRE(dq.at(i) == 0);
    for (int64_t i = 0; i < dk.numel(); ++i) REQUIRE(dk.at(i) == 0);
    // With D = g·y smaller by 1 the slope of the wanted key is 1: y loses the first unit of g.
    Tensor one = Zeros(dtype, rows), less = y;
    for (int64_t i = 0; i < rows.numel() / d; ++i) {
      one.Set(i * d, 1);
      less.Set(i * d, y.at(i * d) - 1);
    }
    args.g = one;
    args.y = less;
    Run(MirroredCuda(), args, context);
    Tensor dk_expected = Zeros(DType::kF64, keys);
    for (int64_t i = 0; i < queries; ++i)
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t row = (i * heads + h) * d, key = (wanted(i, h) * kv_heads + h / 2) * d;
        for (int64_t c = 0; c < d; ++c) {
          REQUIRE(dq.at(row + c) == k.at(key + c));
          dk_expected.Set(key + c, dk_expected.at(key + c) + q.at(row + c));
        }
      }
    CHECK_IDENTICAL(dk, dk_expected.As(dtype));
  }
}

TEST_CASE("cuda attention: a query that sees no key gives no gradient") {
  for (const DType dtype : kDTypes) {
    for (const int64_t queries : {3, 70}) {
      AttentionCase c;
      c.dtype = dtype;
      c.queries = queries;
      c.q_heads = 2;
      Operands o(c);
      o.key_begin = Tensor(DType::kI32, {1, queries});
      for (int64_t i = 0; i < queries; ++i) o.key_begin.Set(i, i < 2 ? 2 : 0);
      const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {1, 2, queries});
      Run(ReferenceBackend(), ForwardArgs(c, o, y, lse));
      MirrorContext context = NthContext(static_cast<int>(queries));
      const Gradients d(c.dtype, o);
      Run(MirroredCuda(), BackwardArgs(c, o, y, lse, d), context);
      for (int64_t i = 0; i < d.dq.numel(); ++i) {
        CHECK(std::isfinite(d.dq.at(i)));
        if (i / (2 * c.d) < 2) CHECK(d.dq.at(i) == 0);
      }
      for (int64_t i = 0; i < d.dk.numel(); ++i) CHECK(std::isfinite(d.dk.at(i) + d.dv.at(i)));
    }
  }
}

#ifndef LORA_REAL_GPU
TEST_CASE("cuda attention's gradients read shared memory without bank conflicts") {
  for (const int64_t d : {64, 128, 256}) {
    AttentionCase c;
    c.dtype = DType::kBF16;
    c.queries = 70;
    c.d = d;
    const Operands o(c);
    MirrorContext context = NthContext(0);
    const Tensor lse = Full(DType::kF32, {1, 1, c.queries}, 1);
    const Gradients gradients(c.dtype, o);
    Run(MirroredCuda(), BackwardArgs(c, o, o.q, lse, gradients), context);
    const simt::Result counts = simt::EmulatedCounts(context.device.gpu());
    CHECK(counts.ldmatrix_phases > 0);
    CHECK(counts.WavefrontsPerPhase() == 1.0);
  }
}
#endif

TEST_CASE("cuda attention's gradients of nothing are nothing, of keys without queries zero") {
  AttentionCase c;
  c.queries = 0;
  Operands o(c);
  MirrorContext context = NthContext(0);
  const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {1, 1, 0});
  const Gradients d(c.dtype, o);
  Run(MirroredCuda(), BackwardArgs(c, o, y, lse, d), context);

  c.queries = 5;
  c.q_heads = 0;
  c.kv_heads = 2;
  const Operands no_heads(c);
  const Tensor y1(c.dtype, no_heads.q.shape()), lse1(DType::kF32, {1, 0, 5});
  const Gradients d1(c.dtype, no_heads);
  Run(MirroredCuda(), BackwardArgs(c, no_heads, y1, lse1, d1), context);
  CHECK_IDENTICAL(d1.dk, Zeros(c.dtype, d1.dk.shape()));
  CHECK_IDENTICAL(d1.dv, Zeros(c.dtype, d1.dv.shape()));
}

}  // namespace
}  // namespace lora::test
