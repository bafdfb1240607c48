// Tests what of attention only the CUDA backend has: plans, and how its kernels read shared memory.
#include "backend/cuda/attention_plan.h"

#include <doctest/doctest.h>

#include "test/support/device_products.h"
#include "test/support/page_cases.h"
#include "test/support/run.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

using namespace attention;

TEST_CASE("cuda attention: the plan fills the device and depends on the problem alone") {
  using namespace cuda;
  const AttentionTile tile = ForwardTile(128, true, 4);
  // A prefill has enough tiles and takes one part.
  const AttentionTile large = ForwardTile(128, true, 4 * 4096);
  CHECK(PlanAttention({1, 8, 4 * 4096, 4096, 128}, large, 132).splits == 1);
  CHECK(PlanAttention({1, 8, 4 * 4096, 4096, 128}, large, 132).scratch_bytes == 0);
  // Decoding takes at most two waves, and no part is shorter than two tiles.
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
  // Gradients dk and dv of two kv heads are not left to 32 of 132 multiprocessors.
  const AttentionTile keys = KeyGradientTile(64, true);
  CHECK(PlanAttentionBackward({1, 2, 7 * 1024, 7 * 1024, 64, 1024}, keys, 132).blocks() >= 132);
  CHECK(PlanAttentionBackward({8, 8, 4 * 2048, 4 * 2048, 64, 2048}, keys, 132).splits == 1);
  CHECK(PlanAttentionBackward({1, 1, 64, 64, 64, 64}, keys, 132).splits == 1);
  CHECK(PlanAttentionBackward({1, 1, 0, 0, 64, 0}, keys, 132).tiles == 0);
  CHECK_THROWS(PaddedHeadDim(257));
}

// These are cases of ops/attention_backward_test.cc.
TEST_CASE("cuda attention: the rows of a key are taken in parts where the device is not filled") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const AttentionCase& c :
         {AttentionCase{dtype, 1, 66, 16, 1, 8}, AttentionCase{dtype, 1, 35, 8, 1, 200, 0, true}}) {
      const MirrorContext context = NthContext(0);
      const Operands o(c);
      const Tensor lse(DType::kF32, {c.batch, c.q_heads, c.queries});
      const Gradients d(c.dtype, o);
      const PlannedCall call = MirroredCuda().op<AttentionBackwardArgs>().plan(
          BackwardArgs(c, o, o.q, lse, d), context.threads());
      CHECK(call.scratch_bytes > 4 * static_cast<size_t>(lse.numel() + d.dk.numel()));
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
TEST_CASE("cuda attention reads shared memory without bank conflicts") {
  for (const int64_t queries : {4, 70}) {  // decode, and a tile of rows
    for (const int64_t d : {64, 128, 256}) {
      const PagedCase c{DType::kBF16, AttentionPhase::kPrefill, queries, 1, 1, d, 0, {74}};
      const PagedOperands o(c);
      MirrorContext context = NthContext(0);
      const Tensor y(c.dtype, o.q.shape());
      Run(MirroredCuda(), PagedArgs(c, o, y), context);
      const simt::Result counts = simt::EmulatedCounts(context.device.gpu());
      CHECK(counts.ldmatrix_phases > 0);
      CHECK(counts.WavefrontsPerPhase() == 1.0);
    }
  }
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
