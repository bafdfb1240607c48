// Tests what a product of logits leaves of its rows: the largest logit of each warp's columns, and
// the sum of exponentials relative to it.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cuda/gemm.h"
#include "backend/cuda/gemm_plan.h"
#include "core/error.h"
#include "test/support/device_products.h"

namespace lora::test {
namespace {

TEST_CASE("cuda gemm: the sums of rows that a product of logits leaves are those of its result") {
  const struct {
    int64_t m, n, k;
    int multiprocessors, tile;
  } cases[] = {
      {1, 1, 8, 16, 64},      {64, 64, 32, 16, 64},   {65, 129, 72, 16, 64}, {3, 500, 65, 16, 64},
      {130, 300, 40, 1, 128}, {128, 128, 96, 1, 128}, {200, 65, 33, 1, 128},
  };
  int turn = 0;
  for (const auto& c : cases) {
    CAPTURE(c.m);
    CAPTURE(c.n);
    const cuda::DeviceProperties properties{c.multiprocessors, 80, 163 * 1024};
    MirrorContext context = ContextOf(turn++, properties);
    const Tensor a = Normal(DType::kBF16, {c.m, c.k}, 1), b = Normal(DType::kBF16, {c.n, c.k}, 2);
    const int64_t pitch = (c.n + 7) / 8 * 8;
    const DeviceMatrix of_a(a, c.k, 0, "a"), of_b(b, c.k, 0, "b");
    const DeviceMatrix logits(DType::kF32, c.m, c.n, pitch, 0, "logits");
    cuda::GemmProblem p;
    p.m = c.m;
    p.n = c.n;
    p.a_dtype = p.b_dtype = DType::kBF16;
    p.trans_b = p.with_row_sums = true;
    p.segments.push_back({of_a.data(), of_b.data(), c.k, c.k, c.k, {}, false});
    p.c = logits.data();
    p.c_pitch = pitch;
    const cuda::GemmPlan plan = cuda::PlanGemm("gemm", p, context.threads());
    REQUIRE(plan.tile == c.tile);
    const int64_t parts = cuda::RowSumParts(plan, p), columns = c.tile / 2;
    const DeviceMatrix sums(DType::kF32, c.m, 2 * parts, 2 * parts, 0, "sums");
    p.row_sums = sums.floats();
    cuda::Gemm("gemm", p, plan, {}, context.device);
    context.device.Finish();
    const Tensor x = logits.Download(), got = sums.Download();
    for (int64_t row = 0; row < c.m; ++row) {
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t begin = part * columns, end = std::min(begin + columns, c.n);
        double largest = -std::numeric_limits<double>::infinity(), sum = 0, bound = 0;
        for (int64_t i = begin; i < end; ++i) largest = std::max(largest, x.at(row * c.n + i));
        for (int64_t i = begin; i < end; ++i) {
          const double below = x.at(row * c.n + i) - largest;
          sum += std::exp(below);
          bound += std::exp(below) * kU * (4 - below);  // exp of a rounded difference
        }
        bound += 16 * kU * sum;  // a thread adds up to 16 exponentials in pairs, then four threads
        CHECK(got.at((row * parts + part) * 2) == largest);
        CHECK(std::fabs(got.at((row * parts + part) * 2 + 1) - sum) <= bound);
      }
    }
  }
  simt::SetEmulatedProperties(kUsual);
}

TEST_CASE("cuda gemm: products that leave the sums of rows are plain ones in bf16, and not split") {
  cuda::GemmProblem p;
  p.m = 64;
  p.n = 64;
  p.a_dtype = p.b_dtype = DType::kBF16;
  p.trans_b = true;
  p.segments.push_back({nullptr, nullptr, 8192, 8192, 8192, {}, false});
  CHECK(cuda::PlanGemm("gemm", p, 132).slabs > 1);
  p.with_row_sums = true;
  CHECK(cuda::PlanGemm("gemm", p, 132).slabs == 1);
  const auto refused = [&](auto change) {
    cuda::GemmProblem other = p;
    change(other);
    CHECK_THROWS_AS(cuda::PlanGemm("gemm", other, 132), Error);
  };
  refused([](auto& q) { q.alpha = 2; });
  refused([](auto& q) { q.bias = &q; });
  refused([](auto& q) { q.trans_b = false; });
  refused([](auto& q) { q.c_dtype = DType::kBF16; });
  refused([](auto& q) { q.a_dtype = q.b_dtype = DType::kF16; });
}

}  // namespace
}  // namespace lora::test
