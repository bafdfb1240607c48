// attention_forward of the CUDA backend on the emulator against the reference in f64, within the
// bounds of attention_cases.h, and on whole numbers without any.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "backend/cuda/attention_plan.h"
#include "test/support/attention_cases.h"
#include "test/support/close.h"
#include "test/support/run.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

using namespace attention;

// Tensor cores take the weights as 16-bit numbers.
Rounding RoundingOf(DType dtype) { return {dtype == DType::kF32 ? 0 : 1.01 * UnitRoundoff(dtype)}; }

void CheckForward(const AttentionCase& c, int turn) {
  CAPTURE(c.Name());
  const Operands operands(c), wide = Widened(operands);
  const Shape lse_shape{c.batch, c.q_heads, c.queries};
  const Tensor y(DType::kF64, operands.q.shape()), lse(DType::kF32, lse_shape);
  Run(ReferenceBackend(), ForwardArgs(c, wide, y, lse));
  const ForwardBounds bounds = BoundsOf(c, operands, y, lse, RoundingOf(c.dtype));
  MirrorContext context = NthContext(turn, turn % 2);
  const Tensor y1(c.dtype, y.shape()), lse1(DType::kF32, lse_shape);
  Run(MirroredCuda(), ForwardArgs(c, operands, y1, lse1), context);
  CHECK_CLOSE(y1, y, bounds.y);
  CHECK_CLOSE(lse1, lse, bounds.lse);
  CHECK((y1.intact() && lse1.intact()));
  if (turn % 3 != 0) return;
  // In another order, and with whole vectors where these were odd places.
  MirrorContext other = NthContext(turn + 4, (turn + 1) % 2);
  const Tensor y2(c.dtype, y.shape());
  Run(MirroredCuda(), ForwardArgs(c, operands, y2, Tensor()), other);
  CHECK_IDENTICAL(y2, y1);
}

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

TEST_CASE("cuda attention agrees with the reference") {
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
        {dtype, 1, 130, 1, 1, 7, 70},
        {dtype, 1, 22, 3, 1, 65},
        {dtype, 1, 66, 1, 1, 80, 1},
        {dtype, 1, 65, 1, 1, 128, 0, 0, 0, true},
        {dtype, 1, 18, 2, 2, 129},
        {dtype, 1, 33, 1, 1, 255, 20},
        {dtype, 1, 35, 2, 1, 256},
    };
    for (const AttentionCase& c : cases) CheckForward(c, turn++);
  }
}

TEST_CASE("cuda attention continues from a cache, its keys in parts") {
  int turn = 0;
  for (const DType dtype : kDTypes) {
    const std::vector<AttentionCase> cases = {
        {dtype, 1, 1, 1, 1, 16, 0, 0, 9},         {dtype, 1, 1, 9, 3, 64, 0, 127, 0},
        {dtype, 2, 1, 3, 3, 64, 0, 128, 200},     {dtype, 3, 1, 4, 2, 12, 5, 300, 0},
        {dtype, 1, 1, 8, 1, 80, 150, 517, 600},   {dtype, 1, 2, 4, 1, 13, 0, 255, 0},
        {dtype, 1, 3, 4, 2, 128, 0, 161, 170},    {dtype, 1, 65, 2, 1, 16, 0, 100, 0},
        {dtype, 1, 7, 1, 1, 8, 5, 63, 80},        {dtype, 1, 1, 9, 3, 64, 0, 300, 0, true},
        {dtype, 1, 30, 3, 1, 7, 0, 20, 0, true},  {dtype, 1, 1, 2, 1, 256, 0, 200, 0},
        {dtype, 1, 4, 4, 1, 100, 0, 90, 0, true}, {dtype, 2, 1, 17, 1, 24, 0, 140, 0},
    };
    for (const AttentionCase& c : cases) CheckForward(c, turn++);
  }
}

// The first row of a tile sees all but the last key of a tile of 16, 32 or 64 keys.
TEST_CASE("cuda attention: the first query sees all of a tile of keys but the last one") {
  int turn = 0;
  for (const DType dtype : kDTypes) {
    for (const int64_t d : {16, 100, 256}) {
      for (const int64_t offset : {14, 62}) {
        for (const int64_t queries : {2, 20}) {
          CheckForward({dtype, 1, queries, 1, 1, d, 0, offset, offset + queries + 3}, turn++);
        }
      }
    }
  }
}

TEST_CASE("cuda attention takes whole values exactly") {
  int turn = 0;
  for (const DType dtype : kDTypes) {
    for (const int64_t offset : {0, 27}) {
      // Row (i, h) asks for key `wanted` alone: its score is 4096, all others are 0.
      const int64_t queries = 100 - offset, keys = 100, heads = 4, kv_heads = 2, d = 128;
      const auto wanted = [&](int64_t i, int64_t h) { return (i + offset) * (7 * h + 3) / 24; };
      Tensor q = Zeros(dtype, {1, queries, heads, d}), k = Zeros(dtype, {1, keys, kv_heads, d});
      const Tensor v = Integers(dtype, k.shape(), 1, -99, 99);
      Tensor expected(dtype, q.shape());
      for (int64_t j = 0; j < keys * kv_heads; ++j) k.Set(j * d + j / kv_heads, 64);
      for (int64_t i = 0; i < queries; ++i)
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
      args.kv_length = keys;
      args.q_offset = offset;
      MirrorContext context = NthContext(turn++);
      const Tensor y(dtype, q.shape());
      args.y = y;
      Run(MirroredCuda(), args, context);
      CHECK_IDENTICAL(y, expected);
      // With a window of one key there is nothing to choose.
      args.window = 1;
      Run(MirroredCuda(), args, context);
      for (int64_t i = 0; i < y.numel(); ++i) {
        const int64_t position = i / (heads * d) + offset, h = i / d % heads;
        REQUIRE(y.at(i) == v.at((position * kv_heads + h / 2) * d + i % d));
      }
    }
  }
}

TEST_CASE("cuda attention: a query that sees no key gives zero") {
  for (const DType dtype : kDTypes) {
    for (const int64_t queries : {3, 70}) {
      AttentionCase c;
      c.dtype = dtype;
      c.queries = queries;
      c.q_heads = 2;
      Operands o(c);
      o.key_begin = Tensor(DType::kI32, {1, queries});
      for (int64_t i = 0; i < queries; ++i) o.key_begin.Set(i, i == 1 ? 2 : -3);
      MirrorContext context = NthContext(static_cast<int>(queries));
      const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {1, 2, queries});
      Run(MirroredCuda(), ForwardArgs(c, o, y, lse), context);
      for (int64_t i = 0; i < y.numel(); ++i) {
        CHECK(std::isfinite(y.at(i)));
        if (i / (2 * c.d) == 1) CHECK(y.at(i) == 0);
      }
      CHECK(lse.at(1) == -std::numeric_limits<double>::infinity());
      CHECK(std::isfinite(lse.at(2)));
    }
  }
}

TEST_CASE("cuda attention: large scores neither overflow nor lose their order") {
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
    MirrorContext context = NthContext(2);
    const Tensor y(c.dtype, o.q.shape());
    Run(MirroredCuda(), ForwardArgs(c, o, y, Tensor()), context);
    CHECK_CLOSE(y, expected, bounds.y);
  }
}

TEST_CASE("cuda attention: a NaN in a key reaches the queries that see it") {
  for (const DType dtype : kDTypes) {
    for (const int64_t queries : {2, 40}) {
      AttentionCase c;
      c.dtype = dtype;
      c.queries = queries;
      Operands o(c);
      o.k.Set(c.d, std::numeric_limits<double>::quiet_NaN());  // key 1
      MirrorContext context = NthContext(1);
      const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {1, 1, queries});
      Run(MirroredCuda(), ForwardArgs(c, o, y, lse), context);
      for (int64_t i = 0; i < y.numel(); ++i) CHECK(std::isnan(y.at(i)) == (i >= c.d));
    }
  }
}

#ifndef LORA_REAL_GPU
TEST_CASE("cuda attention reads shared memory without bank conflicts") {
  for (const int64_t queries : {4, 70}) {  // decode, and a tile of rows
    for (const int64_t d : {64, 128, 256}) {
      AttentionCase c;
      c.dtype = DType::kBF16;
      c.queries = queries;
      c.q_offset = 74 - queries;
      c.d = d;
      const Operands o(c);
      MirrorContext context = NthContext(0);
      const Tensor y(c.dtype, o.q.shape());
      Run(MirroredCuda(), ForwardArgs(c, o, y, Tensor()), context);
      const simt::Result counts = simt::EmulatedCounts(context.device.gpu());
      CHECK(counts.ldmatrix_phases > 0);
      CHECK(counts.WavefrontsPerPhase() == 1.0);
    }
  }
}
#endif

TEST_CASE("cuda attention of nothing is nothing") {
  AttentionCase c;
  c.queries = 0;
  Operands o(c);
  MirrorContext context = NthContext(0);
  const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {1, 1, 0});
  Run(MirroredCuda(), ForwardArgs(c, o, y, lse), context);
}

TEST_CASE("cuda attention: the plan fills the device and depends on the problem alone") {
  using namespace cuda;
  const AttentionTile tile = ForwardTile(128, true, 4);
  // Prefill: enough tiles, one part.
  const AttentionTile large = ForwardTile(128, true, 4 * 4096);
  CHECK(PlanAttention({1, 8, 4 * 4096, 4096, 128}, large, 132).splits == 1);
  CHECK(PlanAttention({1, 8, 4 * 4096, 4096, 128}, large, 132).scratch_bytes == 0);
  // Decode: at most two waves, no part shorter than two tiles.
  for (const int64_t keys : {1, 127, 128, 1000, 4096, 100000}) {
    for (const int64_t pairs : {1, 8, 131, 132, 500}) {
      const AttentionPlan plan = PlanAttention({1, pairs, 4, keys, 128}, tile, 132);
      CHECK(plan.splits >= 1);
      CHECK(plan.tiles == pairs);
      CHECK((plan.splits == 1 || plan.blocks() <= 2 * 132));
      CHECK((plan.splits == 1 || plan.splits * 2 * tile.keys <= keys + tile.keys - 1));
      CHECK((plan.splits > 1) == (plan.scratch_bytes > 0));
    }
  }
  CHECK(PlanAttention({1, 8, 4, 100000, 128}, tile, 132).splits == 33);
  CHECK(PlanAttention({0, 8, 4, 100, 128}, tile, 132).tiles == 0);
  // Gradients: dk and dv of two kv heads are not left to 32 of 132 multiprocessors.
  const AttentionTile keys = KeyGradientTile(64, true);
  CHECK(PlanAttentionBackward({1, 2, 7 * 1024, 7 * 1024, 64, 1024}, keys, 132).blocks() >= 132);
  CHECK(PlanAttentionBackward({8, 8, 4 * 2048, 4 * 2048, 64, 2048}, keys, 132).splits == 1);
  CHECK(PlanAttentionBackward({1, 1, 64, 64, 64, 64}, keys, 132).splits == 1);
  CHECK(PlanAttentionBackward({1, 1, 0, 0, 64, 0}, keys, 132).tiles == 0);
  CHECK_THROWS(PaddedHeadDim(257));
}

}  // namespace
}  // namespace lora::test
