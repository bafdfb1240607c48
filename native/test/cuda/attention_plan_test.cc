// Tests what of attention only the CUDA backend has: plans, and how its kernels read shared memory.
#include "backend/cuda/attention_plan.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "backend/cuda/runtime.h"
#include "test/support/device_products.h"
#include "test/support/page_cases.h"
#include "test/support/run.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

using namespace attention;

TEST_CASE("cuda attention: the plan fills the device and depends on the problem alone") {
  using namespace cuda;
  // A prefill has enough tiles and takes one part.
  CHECK(PlanAttention({1, 8, 4 * 4096, 4096, 128}, DType::kBF16, 132).splits == 1);
  CHECK(PlanAttention({1, 8, 4 * 4096, 4096, 128}, DType::kBF16, 132).scratch_bytes == 0);
  // Tiles of 128 rows have kernels in bf16 and for head dims up to 128 alone.
  CHECK(PlanAttention({1, 8, 4 * 4096, 4096, 128}, DType::kBF16, 132).tile.rows == 128);
  CHECK(PlanAttention({1, 8, 4 * 4096, 4096, 128}, DType::kF16, 132).tile.rows == 64);
  CHECK(PlanAttention({1, 8, 4 * 4096, 4096, 129}, DType::kBF16, 132).tile.rows == 64);
  // Decoding takes at most two waves, and no part is shorter than two tiles.
  for (const int64_t keys : {1, 127, 128, 1000, 4096, 100000}) {
    for (const int64_t pairs : {1, 8, 131, 132, 500}) {
      const AttentionPlan plan = PlanAttention({1, pairs, 4, keys, 128}, DType::kBF16, 132);
      CHECK(plan.splits >= 1);
      CHECK(plan.tiles == pairs);
      CHECK((plan.splits == 1 || plan.blocks() <= 2 * 132));
      CHECK((plan.splits == 1 || plan.splits * 2 * plan.tile.keys <= keys + plan.tile.keys - 1));
      CHECK((plan.splits > 1) == (plan.scratch_bytes > 0));
      CHECK(plan.counters() == (plan.splits > 1 ? pairs : 0));
    }
  }
  CHECK(PlanAttention({1, 8, 4, 100000, 128}, DType::kBF16, 132).splits == 33);
  CHECK(PlanAttention({0, 8, 4, 100, 128}, DType::kBF16, 132).tiles == 0);
  // Gradients dk and dv of two kv heads are not left to 32 of 132 multiprocessors.
  const AttentionTile keys = KeyGradientTile(64, true);
  CHECK(PlanAttentionBackward({1, 2, 7 * 1024, 7 * 1024, 64, 1024}, keys, 132).blocks() >= 132);
  CHECK(PlanAttentionBackward({8, 8, 4 * 2048, 4 * 2048, 64, 2048}, keys, 132).splits == 1);
  CHECK(PlanAttentionBackward({1, 1, 64, 64, 64, 64}, keys, 132).splits == 1);
  CHECK(PlanAttentionBackward({1, 1, 0, 0, 64, 0}, keys, 132).tiles == 0);
  CHECK_THROWS(PaddedHeadDim(257));
}

TEST_CASE("cuda attention: every tile that is split has a counter") {
  for (const int multiprocessors : {1, 2, 3, 46, 108, 132}) {
    CAPTURE(multiprocessors);
    int64_t most = 0, most_of_keys = 0;
    for (int64_t pairs = 1; pairs < 3 * multiprocessors; ++pairs) {
      for (const int64_t length : {64, 128, 129, 1000, 100000}) {
        for (const int64_t rows : {int64_t{4}, int64_t{64}, length}) {
          const cuda::AttentionProblem problem{1, pairs, rows, length, 64, rows};
          const cuda::AttentionPlan plan =
              cuda::PlanAttention(problem, DType::kBF16, multiprocessors);
          most = std::max(most, plan.counters());
          const cuda::AttentionBackwardPlan of_keys = cuda::PlanAttentionBackward(
              problem, cuda::KeyGradientTile(64, true), multiprocessors);
          most_of_keys = std::max(most_of_keys, of_keys.counters());
        }
      }
    }
    CHECK((most > 0) == (multiprocessors > 1));
    CHECK(most < multiprocessors);
    CHECK(most_of_keys < multiprocessors);
    static_assert(cuda::Gpu::kCounters >= 1);
  }
}

TEST_CASE("cuda attention: tiles of 128 rows have the bits of those of 64") {
  for (const AttentionCase& c :
       std::vector<AttentionCase>{{DType::kBF16, 2, 130, 4, 2, 64},
                                  {DType::kBF16, 1, 97, 6, 2, 40, 0, true},
                                  {DType::kBF16, 1, 300, 1, 1, 37, 70},
                                  {DType::kBF16, 2, 129, 2, 2, 64, 200, true},
                                  // From one tile of keys to five, in two stages.
                                  {DType::kBF16, 8, 32, 1, 1, 128},
                                  {DType::kBF16, 2, 130, 4, 2, 128},
                                  {DType::kBF16, 1, 97, 6, 2, 80, 0, true, 0, false, true},
                                  {DType::kBF16, 1, 300, 1, 1, 101, 70},
                                  {DType::kBF16, 1, 200, 2, 1, 128, 0, false, 0, true}}) {
    CAPTURE(c.Name());
    const int64_t rows = c.queries * (c.q_heads / c.kv_heads), pairs = c.batch * c.kv_heads;
    // Tiles of 64 rows are enough for this device, and those of 128 for one multiprocessor.
    const int all = static_cast<int>(pairs * ((rows + 63) / 64));
    const Operands o(c);
    std::vector<Tensor> results;
    for (const int multiprocessors : {all, 1}) {
      const cuda::AttentionPlan plan = cuda::PlanAttention(
          {c.batch, c.kv_heads, rows, c.queries, c.d}, DType::kBF16, multiprocessors);
      CHECK(plan.tile.rows == (multiprocessors == 1 ? 128 : 64));
      CHECK(plan.splits == 1);
      for (int turn = 0; turn < 9; turn += 2) {
        MirrorContext context = ContextOf(turn, {multiprocessors, 80, 163 * 1024});
        const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {c.batch, c.q_heads, c.queries});
        Run(MirroredCuda(), ForwardArgs(c, o, y, lse), context);
        results.insert(results.end(), {y, lse});
        // Where a window moves the first key of a tile, sums are of other groups of keys.
        if (c.window > 0 && results.size() > 6) continue;
        CHECK_IDENTICAL(y, results[0]);
        CHECK_IDENTICAL(lse, results[1]);
      }
    }
    const Tensor y(DType::kF64, o.q.shape()), lse(DType::kF32, results[1].shape());
    Run(ReferenceBackend(), ForwardArgs(c, Widened(o), y, lse));
    auto bounds_of_path =
        OfPath(c, [&](const Rounding& rounding) { return BoundsOf(c, o, y, lse, rounding); });
    CHECK_CLOSE(results.end()[-2], y, bounds_of_path().y);
    CHECK_CLOSE(results.end()[-1], lse, bounds_of_path().lse);
  }
  simt::SetEmulatedProperties(kUsual);
}

TEST_CASE("cuda attention: tiles of 128 rows have the bits of those of 64 in pages, too") {
  for (const int64_t d : {64, 72, 128}) {
    const PagedCase c{DType::kBF16, AttentionPhase::kPrefill, 70, 4, 2, d, 0, {70, 250, 199}};
    CAPTURE(c.Name());
    const PagedOperands o(c);
    std::vector<Tensor> results;
    for (const int multiprocessors : {18, 1}) {  // of 3 sequences of 2 heads of 140 rows each
      for (const int turn : {0, 4, 5}) {
        MirrorContext context = ContextOf(turn, {multiprocessors, 86, 99 * 1024});
        Run(MirroredCuda(), PagedArgs(c, o, results.emplace_back(c.dtype, o.q.shape())), context);
        CHECK_IDENTICAL(results.back(), results[0]);
      }
    }
  }
  simt::SetEmulatedProperties(kUsual);
}

// Values that no row of a warp sees are not read, though rows of other warps of its tile see them:
// 0 times infinity would be no number.
TEST_CASE(
    "cuda attention: a warp of a tile of 128 rows passes over keys that its rows do not see") {
  for (const int64_t window : {0, 16}) {
    const AttentionCase c{DType::kBF16, 1, 256, 1, 1, 128, window};
    CAPTURE(c.Name());
    Operands o(c);
    // The last 64 keys, which the last rows alone see, and the first 64 with a window.
    const int64_t from = window ? 0 : 192;
    for (int64_t i = from * c.d; i < (from + 64) * c.d; ++i)
      o.v.Set(i, std::numeric_limits<double>::infinity());
    MirrorContext context = ContextOf(0, {1, 80, 163 * 1024});
    const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {1, 1, c.queries});
    Run(MirroredCuda(), ForwardArgs(c, o, y, lse), context);
    // Rows 64 to 79 of a window see some of the first keys, and the others of their warps do not.
    const int64_t finite = window ? 80 : 0, end = window ? 256 : 192;
    int64_t not_finite = 0;
    for (int64_t i = finite * c.d; i < end * c.d; ++i) not_finite += !std::isfinite(y.at(i));
    CHECK(not_finite == 0);
    CHECK(!std::isfinite(y.at((window ? 63 : 192) * c.d)));
  }
  simt::SetEmulatedProperties(kUsual);
}

// Runs a call that splits its sums in every schedule. Returns the bits of the first, which all
// others must have.
template <class Args>
std::vector<Tensor> InAnyOrder(const cuda::DeviceProperties& properties, size_t least_scratch,
                               const std::function<std::vector<Tensor>()>& outputs,
                               const std::function<Args(const std::vector<Tensor>&)>& args_of) {
  std::vector<Tensor> first;
  for (int turn = 0; turn < 9; ++turn) {
    CAPTURE(turn);
    MirrorContext context = ContextOf(turn, properties);
    std::vector<Tensor> out = outputs();
    const Args args = args_of(out);
    CHECK(MirroredCuda().op<Args>().plan(args, context.threads()).scratch_bytes > least_scratch);
    Run(MirroredCuda(), args, context);
    for (size_t i = 0; i < first.size(); ++i) CHECK_IDENTICAL(out[i], first[i]);
    if (turn == 0) first = std::move(out);
  }
  simt::SetEmulatedProperties(kUsual);
  return first;
}

TEST_CASE("cuda attention: parts of keys have the same sums in any order of blocks") {
  constexpr cuda::DeviceProperties kMany{16, 80, 163 * 1024};
  for (const AttentionCase& c :
       std::vector<AttentionCase>{{DType::kF32, 1, 130, 2, 1, 40},
                                  {DType::kF32, 1, 70, 1, 1, 131, 30},
                                  {DType::kBF16, 1, 200, 2, 1, 64},
                                  {DType::kF16, 1, 260, 1, 1, 37, 0, true}}) {
    CAPTURE(c.Name());
    const Operands o(c);
    const Shape lse_shape{c.batch, c.q_heads, c.queries};
    const Tensor y(DType::kF64, o.q.shape()), lse(DType::kF32, lse_shape);
    Run(ReferenceBackend(), ForwardArgs(c, Widened(o), y, lse));
    const std::vector<Tensor> out = InAnyOrder<AttentionForwardArgs>(
        kMany, 0,
        [&] {
          return std::vector<Tensor>{Tensor(c.dtype, o.q.shape()), Tensor(DType::kF32, lse_shape)};
        },
        [&](const std::vector<Tensor>& to) { return ForwardArgs(c, o, to[0], to[1]); });
    auto bounds_of_path =
        OfPath(c, [&](const Rounding& rounding) { return BoundsOf(c, o, y, lse, rounding); });
    CHECK_CLOSE(out[0], y, bounds_of_path().y);
    CHECK_CLOSE(out[1], lse, bounds_of_path().lse);
  }
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const PagedCase c{dtype, AttentionPhase::kDecode, 1, 3, 1, 72, 0, {700, 1, 129}};
    const PagedOperands o(c);
    (void)InAnyOrder<AttentionPagedArgs>(
        kMany, 4096, [&] { return std::vector<Tensor>{Tensor(c.dtype, o.q.shape())}; },
        [&](const std::vector<Tensor>& to) { return PagedArgs(c, o, to[0]); });
  }
}

// These are cases of ops/attention_backward_test.cc.
TEST_CASE("cuda attention: the rows of a key are taken in parts where the device is not filled") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const AttentionCase& c :
         {AttentionCase{dtype, 1, 66, 16, 1, 8}, AttentionCase{dtype, 1, 35, 8, 1, 200, 0, true}}) {
      const Operands o(c);
      const Tensor lse = Full(DType::kF32, {c.batch, c.q_heads, c.queries}, 1);
      const Gradients none(c.dtype, o);
      (void)InAnyOrder<AttentionBackwardArgs>(
          kUsual, 4 * static_cast<size_t>(lse.numel() + o.k.numel()),
          [&] { return ListOf(Gradients(c.dtype, o)); },
          [&](const std::vector<Tensor>& d) {
            AttentionBackwardArgs args = BackwardArgs(c, o, o.q, lse, none);
            args.dq = d[0];
            args.dk = d[1];
            args.dv = d[2];
            return args;
          });
    }
  }
}

TEST_CASE("cuda attention's gradients have the same bits where shared memory is scarce") {
  const AttentionCase c{DType::kBF16, 1, 130, 4, 2, 128, 40};
  const Operands o(c);
  const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {1, c.q_heads, c.queries});
  Run(ReferenceBackend(), ForwardArgs(c, o, y, lse));
  std::vector<Gradients> results;
  std::vector<uint64_t> phases;
  for (const cuda::DeviceProperties& properties : {kUsual, kSmall}) {
    MirrorContext context = ContextOf(static_cast<int>(results.size()), properties);
    const Gradients& d = results.emplace_back(c.dtype, o);
    Run(MirroredCuda(), BackwardArgs(c, o, y, lse, d), context);
    phases.push_back(simt::EmulatedCounts(context.device.gpu()).ldmatrix_phases);
  }
  simt::SetEmulatedProperties(kUsual);
  CHECK_IDENTICAL(results[1].dq, results[0].dq);
  CHECK_IDENTICAL(results[1].dk, results[0].dk);
  CHECK_IDENTICAL(results[1].dv, results[0].dv);
#ifndef LORA_REAL_GPU
  CHECK(phases[1] > phases[0]);  // smaller stages load k and v more often
#endif
}

#ifndef LORA_REAL_GPU
constexpr cuda::DeviceProperties kLone{1, 80, 163 * 1024};

TEST_CASE("cuda attention reads shared memory without bank conflicts") {
  // Decode, a tile of rows, and, on one multiprocessor, tiles of 128 rows.
  for (const int64_t queries : {4, 70, 200}) {
    for (const int64_t d : {64, 128, 256}) {
      const PagedCase c{DType::kBF16, AttentionPhase::kPrefill, queries, 1, 1, d, 0, {queries + 4}};
      const PagedOperands o(c);
      MirrorContext context = ContextOf(0, queries == 200 ? kLone : kUsual);
      const Tensor y(c.dtype, o.q.shape());
      Run(MirroredCuda(), PagedArgs(c, o, y), context);
      const simt::Result counts = simt::EmulatedCounts(context.device.gpu());
      CHECK(counts.ldmatrix_phases > 0);
      CHECK(counts.WavefrontsPerPhase() == 1.0);
    }
  }
  simt::SetEmulatedProperties(kUsual);
}

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

}  // namespace
}  // namespace lora::test
