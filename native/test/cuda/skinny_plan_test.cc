// Tests how a launch of low-rank products is split.
#include "backend/cuda/skinny_plan.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "backend/cuda/occupancy.h"
#include "backend/cuda/runtime.h"

namespace lora::test {
namespace {

TEST_CASE("cuda skinny plan: every job whole, enough blocks, splits of one length") {
  using cuda::SkinnyShape;
  constexpr int64_t kStep = 64;
  for (const int multiprocessors : {1, 4, 46, 132}) {
    for (const std::vector<SkinnyShape>& jobs : std::vector<std::vector<SkinnyShape>>{
             {{1, 1, 1}},
             {{17, 4096, 2}},
             {{512, 4096, 2}},
             {{8192, 4096, 8}},
             {{4096, 8192, 2}, {14336, 8192, 2}, {0, 8192, 1}, {100, 0, 3}},
             {{100, 100000, 1}},
         }) {
      const cuda::SkinnyPlan plan = cuda::PlanSkinny(jobs, kStep, multiprocessors);
      REQUIRE(plan.jobs.size() == jobs.size());
      int64_t blocks = 0, counters = 0;
      size_t floats = 0;
      for (size_t i = 0; i < jobs.size(); ++i) {
        const cuda::SkinnySplit& split = plan.jobs[i];
        CHECK(split.first_block == blocks);
        CHECK(split.partial == floats);
        CHECK(split.first_counter == counters);
        if (jobs[i].outs == 0) {
          CHECK(split.splits == 0);
          continue;
        }
        CHECK(split.chunk % kStep == 0);
        CHECK(split.splits * split.chunk >= jobs[i].depth);
        CHECK((split.splits - 1) * split.chunk < std::max<int64_t>(jobs[i].depth, 1));
        CHECK(split.splits <= cuda::kSkinnyMaxSplits);
        if (split.splits > 1) counters += (jobs[i].outs + 127) / 128;
        blocks += (jobs[i].outs + 127) / 128 * split.splits;
        floats += static_cast<size_t>(split.splits * jobs[i].outs * jobs[i].tiles * 8);
      }
      CHECK(plan.blocks == blocks);
      CHECK(plan.partial_floats == floats);
      CHECK(plan.counters == counters);
    }
  }
  // Every tile whose depth is split has a counter.
  for (const int multiprocessors : {1, 2, 3, 4, 5, 46, 108, 132}) {
    CAPTURE(multiprocessors);
    int64_t most = 0;
    for (int64_t tiles = 1; tiles < 3 * multiprocessors; ++tiles) {
      for (const int64_t steps : {1, 2, 3, 4, 7, 31, 64, 1000}) {
        for (const size_t jobs : {1, 2, 5}) {
          const std::vector<SkinnyShape> shapes(jobs, {tiles * 128 - 5, steps * kStep, 1});
          most = std::max(most, cuda::PlanSkinny(shapes, kStep, multiprocessors).counters);
        }
      }
    }
    CHECK(most > 0);
    CHECK(most <= cuda::Gpu::kCounters * multiprocessors);
  }
  // Training shapes fill an H100: there is at least a block for three of four multiprocessors from
  // 512 rows on, and 32 splits of k before.
  for (const int64_t m : {17, 64, 128, 512, 1024, 8192}) {
    const SkinnyShape shape{m, 4096, 2};
    const cuda::SkinnyPlan plan = cuda::PlanSkinny({&shape, 1}, kStep, 132);
    CAPTURE(m);
    CHECK((plan.blocks >= 99 || plan.jobs[0].splits == 32));
  }
}

TEST_CASE("cuda skinny plan: two stages where they let twice as many blocks run") {
  using cuda::SkinnyStages;
  constexpr size_t k80 = 163 << 10, k90 = 227 << 10, k120 = 99 << 10, kZ = 16 << 10;
  // A launch of blocks that take all that a block may have: a multiprocessor holds one of them.
  CHECK(cuda::BlocksBySharedMemory(k120, k120) == 1);
  CHECK(cuda::BlocksBySharedMemory(0, k120) == 100);
  CHECK(cuda::BlocksBySharedMemory((100 << 10) / 2 - 1024, k120) == 2);
  CHECK(cuda::BlocksBySharedMemory((100 << 10) / 2 - 1023, k120) == 1);
  // One adapter of rank 16: 62 KiB in three stages, 41 in two.
  constexpr size_t kRank16 = kZ + 2 * 8 * 72 * 4;
  CHECK(SkinnyStages(kRank16, 0, 3, k80) == 3);  // 2 blocks, or 3
  CHECK(SkinnyStages(kRank16, 0, 3, k90) == 3);
  CHECK(SkinnyStages(kRank16, 0, 3, k120) == 2);  // 1, or 2
  CHECK(SkinnyStages(kRank16, 0, 1, k120) == 3);  // registers allow 1
  // q, k and v: 90 KiB, or 60.
  constexpr size_t kThree = kZ + 6 * 8 * 72 * 4;
  CHECK(SkinnyStages(kThree, 0, 3, k80) == 2);   // 1, or 2
  CHECK(SkinnyStages(kThree, 0, 3, k90) == 3);   // 2, or 3
  CHECK(SkinnyStages(kThree, 0, 3, k120) == 3);  // 1
  // Rank 64: three stages do not fit.
  constexpr size_t kRank64 = kZ + 8 * 8 * 72 * 4;
  CHECK(SkinnyStages(kRank64, 0, 3, k120) == 2);
  CHECK(SkinnyStages(kThree, 12 << 10, 3, k120) == 2);
}

}  // namespace
}  // namespace lora::test
