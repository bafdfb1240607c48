// Tests what plans of products of matrices choose, without running them.
#include "backend/cuda/gemm_plan.h"

#include <doctest/doctest.h>

namespace lora::test {
namespace {

TEST_CASE("cuda gemm plan: tensor cores take dropout where no operand is transposed") {
  for (const bool trans_a : {false, true}) {
    for (const bool trans_b : {false, true}) {
      for (const float dropout : {0.0f, 0.1f}) {
        cuda::GemmProblem p;
        p.m = p.n = 256;
        p.a_dtype = p.b_dtype = p.c_dtype = DType::kBF16;
        p.trans_a = trans_a;
        p.trans_b = trans_b;
        p.segments = {{nullptr, nullptr, 64, 256, 256, {}, false},
                      {nullptr, nullptr, 16, 256, 256, {dropout, 1, 2, 3}, false}};
        const int transposed = trans_a + trans_b;
        CHECK(cuda::PlanGemm("gemm", p, 8).tensor_cores == (transposed <= (dropout > 0 ? 0 : 1)));
      }
    }
  }
}

TEST_CASE("cuda gemm plan: batches are not split, and each split has a slab of its own") {
  cuda::GemmProblem p;
  p.m = 40;
  p.n = 70;
  p.a_dtype = p.b_dtype = p.c_dtype = DType::kBF16;
  const auto of = [&](std::vector<int64_t> lengths, int64_t batches) {
    p.segments.clear();
    for (const int64_t k : lengths) p.segments.push_back({nullptr, nullptr, k, k, 70, {}, false});
    p.batches = batches;
    return cuda::PlanGemm("gemm", p, 132);
  };
  CHECK(of({8192}, 1).slabs > 1);
  for (const int64_t batches : {2, 3, 64}) {
    const cuda::GemmPlan plan = of({8192}, batches);
    CHECK(plan.slabs == 1);
    CHECK(plan.scratch_bytes == 0);
    REQUIRE(plan.launches.size() == 1);
    CHECK(plan.launches[0].splits == 1);
  }
  // More segments than a launch takes: the launches' slabs follow each other.
  const cuda::GemmPlan plan = of({4096, 16, 16, 16, 16, 16, 2048, 2048}, 1);
  REQUIRE(plan.launches.size() == 2);
  CHECK(plan.launches[0].splits > 1);
  CHECK(plan.launches[0].slab == 0);
  CHECK(plan.launches[1].slab == plan.launches[0].splits);
  CHECK(plan.slabs == plan.launches[0].splits + plan.launches[1].splits);
  CHECK(plan.scratch_bytes == static_cast<size_t>(plan.slabs) * 40 * 72 * sizeof(float));
}

TEST_CASE("cuda gemm plan: products share a launch that has room for them and their segments") {
  struct Group {
    std::vector<size_t> segments;  // of each product
    bool together;
  };
  for (const Group& group :
       {Group{{1}, false}, Group{{1, 1}, true}, Group{{2, 2, 2, 2}, true}, Group{{6, 2}, true},
        Group{{6, 1, 2}, false}, Group{{1, 1, 1, 1, 1}, false}, Group{{7, 1}, false},
        Group{{1, 7}, false}, Group{{8, 8}, false}}) {
    std::vector<cuda::GemmProblem> problems;
    for (const size_t count : group.segments) {
      cuda::GemmProblem p;
      p.m = p.n = 64;
      p.a_dtype = p.b_dtype = p.c_dtype = DType::kBF16;
      p.segments.assign(count, {nullptr, nullptr, 32, 32, 64, {}, false});
      problems.push_back(p);
    }
    CAPTURE(group.segments.size());
    CAPTURE(group.segments[0]);
    CHECK(cuda::PlanGemmGroup("gemm", problems, 132).together == group.together);
    // What is empty takes no room.
    for (cuda::GemmProblem& p : problems)
      p.segments.insert(p.segments.begin(), 3, {nullptr, nullptr, 0, 0, 64, {}, false});
    problems.insert(problems.begin(), 3, problems[0]);
    for (size_t i = 0; i < 3; ++i) problems[i].m = 0;
    const cuda::GemmGroupPlan plan = cuda::PlanGemmGroup("gemm", problems, 132);
    CHECK(plan.together == group.together);
    CHECK(plan.plans.size() == problems.size());
  }
}

TEST_CASE("cuda gemm plan: plans fill the device, and depend on the shape alone") {
  for (const int multiprocessors : {48, 84, 108, 132, 170}) {
    for (const int64_t d : {1024, 4096}) {
      for (const int64_t m : {17, 32, 64, 100, 128, 256, 512, 4096}) {
        cuda::GemmProblem p;
        p.m = m;
        p.n = d;
        p.a_dtype = p.b_dtype = p.c_dtype = DType::kBF16;
        p.trans_b = true;
        p.segments = {{nullptr, nullptr, 4096, 4096, 4096, {}, false},
                      {nullptr, nullptr, 16, 16, 16, {}, true}};
        const cuda::GemmPlan plan = cuda::PlanGemm("gemm", p, multiprocessors);
        CAPTURE(multiprocessors);
        CAPTURE(d);
        CAPTURE(m);
        CAPTURE(plan.tile);
        CAPTURE(plan.slabs);
        const int64_t tiles = (m + plan.tile - 1) / plan.tile * ((d + plan.tile - 1) / plan.tile);
        REQUIRE(plan.launches.size() == 1);
        CHECK(tiles * plan.slabs >= 0.75 * multiprocessors);
        CHECK(plan.scratch_bytes <=
              (plan.slabs > 1 ? static_cast<size_t>(plan.slabs * m * d * 4) : size_t{0}));
        if (m == 4096) CHECK(plan.tile == 128);
        const cuda::GemmLaunch& launch = plan.launches[0];
        CHECK(launch.blocks == 129);
        CHECK((launch.splits - 1) * launch.blocks_per_split < launch.blocks);
        CHECK(launch.splits * launch.blocks_per_split >= launch.blocks);
      }
    }
  }
}

}  // namespace
}  // namespace lora::test
