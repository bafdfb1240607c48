// Holds what a product of logits leaves (gemm_logits.cuh) against the same logits in doubles: the
// parts of rows, the exponentials in bf16, and the logits of labels.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cuda/gemm.h"
#include "backend/cuda/gemm_plan.h"
#include "core/error.h"
#include "core/maths/ceil_div.h"
#include "test/support/device_products.h"

namespace lora::test {
namespace {

// What is wanted of one row: logits and how far each may be off.
struct Logits {
  Vector values, errors;
};
Logits LogitsOf(const Tensor& a, const Tensor& b, int64_t row, double alpha, double cap) {
  const int64_t n = b.shape()[0], k = b.shape()[1];
  Logits logits;
  for (int64_t col = 0; col < n; ++col) {
    double dot = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < k; ++i) {
      dot += a.at(row * k + i) * b.at(col * k + i);
      aa += a.at(row * k + i) * a.at(row * k + i);
      bb += b.at(col * k + i) * b.at(col * k + i);
    }
    dot *= alpha;
    logits.values.push_back(cap == 0 ? dot : cap * std::tanh(dot / cap));
    logits.errors.push_back(alpha * TensorCoreSumError(k) * std::sqrt(aa * bb) +
                            kU * std::fabs(dot) + 8 * kU * cap);
  }
  return logits;
}

struct LogitsCase {
  int64_t m, n, k;
  int multiprocessors, tile;
  float alpha = 1, cap = 0;
  int64_t first = 0;     // columns of an earlier product, whose parts and logits stay
  bool gradient = true;  // whether c is wanted
};

void CheckLogits(const LogitsCase& c, int turn) {
  CAPTURE(c.m);
  CAPTURE(c.n);
  const cuda::DeviceProperties properties{c.multiprocessors, 80, 163 * 1024};
  MirrorContext context = ContextOf(turn, properties);
  const Tensor a = Normal(DType::kBF16, {c.m, c.k}, 1), b = Normal(DType::kBF16, {c.n, c.k}, 2);
  // Labels before, in and behind the columns, and −100.
  const Tensor labels =
      Integers(DType::kI32, {1, c.m}, 3, -1, static_cast<int>(c.first + c.n + c.n / 4));
  const int64_t pitch = (c.n + 7) / 8 * 8, before = c.first / (c.tile / 2);
  const int64_t count = before + CeilDiv(c.n, int64_t{c.tile / 2});
  const DeviceMatrix of_a(a, c.k, 0, "a"), of_b(b, c.k, 0, "b");
  const DeviceMatrix exponentials(DType::kBF16, c.m, c.n, pitch, 0, "exponentials");
  const DeviceMatrix of_labels(labels, c.m, 0, "labels");
  const DeviceMatrix parts(Full(DType::kF32, {c.m, 3 * count}, 7), 3 * count, 0, "parts");
  const DeviceMatrix label_logits(Full(DType::kF32, {1, c.m}, 7), c.m, 0, "label_logits");
  cuda::GemmProblem p;
  p.m = c.m;
  p.n = c.n;
  p.a_dtype = p.b_dtype = p.c_dtype = DType::kBF16;
  p.trans_b = true;
  p.alpha = c.alpha;
  p.segments.push_back({of_a.data(), of_b.data(), c.k, c.k, c.k, {}, false});
  if (c.gradient) p.c = exponentials.data();
  p.c_pitch = pitch;
  p.logits = cuda::GemmLogits{c.cap,
                              c.first,
                              parts.floats(),
                              count,
                              static_cast<const int32_t*>(of_labels.data()),
                              label_logits.floats()};
  const cuda::GemmPlan plan = cuda::PlanGemm("gemm", p, context.threads());
  REQUIRE(plan.tile == c.tile);
  const int64_t columns = cuda::PartColumns(plan);
  cuda::Gemm("gemm", p, plan, {}, context.device);
  context.device.Finish();
  const Tensor got = parts.Download(), of_label = label_logits.Download();
  const Tensor c_got = c.gradient ? exponentials.Download() : Tensor();
  for (int64_t row = 0; row < c.m; ++row) {
    const Logits want = LogitsOf(a, b, row, c.alpha, c.cap);
    const int64_t label = static_cast<int64_t>(labels.at(row)) - c.first;
    if (label >= 0 && label < c.n) {
      CHECK(std::fabs(of_label.at(row) - At(want.values, label)) <= At(want.errors, label));
    } else {
      CHECK(of_label.at(row) == 7);
    }
    for (int64_t part = 0; part < count; ++part) {
      const auto of_part = [&](int i) { return got.at((row * count + part) * 3 + i); };
      if (part < before) {
        for (int i = 0; i < 3; ++i) CHECK(of_part(i) == 7);
        continue;
      }
      const int64_t begin = (part - before) * columns, end = std::min(begin + columns, c.n);
      const double largest = of_part(0);
      double nearest = std::numeric_limits<double>::infinity(), sum = 0, weighted = 0, bound = 0;
      double weighted_bound = 0;
      for (int64_t i = begin; i < end; ++i) {
        const double below = At(want.values, i) - largest, e = std::exp(below);
        // exp of a logit that errs, and of a rounded difference
        const double error = e * (At(want.errors, i) + kU * (4 + std::fabs(below)));
        CHECK(below <= At(want.errors, i));
        nearest = std::min(nearest, std::fabs(below) - At(want.errors, i));
        sum += e;
        weighted += e * below;
        bound += error;
        weighted_bound += error * std::fabs(below) + e * (At(want.errors, i) + kU);
        if (!c.gradient) continue;
        const double capped = c.cap == 0 ? 0 : At(want.values, i) / c.cap;
        const double slope = 1 - capped * capped;
        const double slope_error = c.cap == 0 ? 0 : 8 * kU + 2 * At(want.errors, i) / c.cap;
        CHECK(std::fabs(c_got.at(row * c.n + i) - e * slope) <=
              error + e * slope_error + UnitRoundoff(DType::kBF16) * e * slope);
      }
      CHECK(nearest <= 0);  // the largest is one of them
      // Four exponentials in a lane, then up to 16 lanes.
      CHECK(std::fabs(of_part(1) - sum) <= bound + 8 * kU * sum);
      CHECK(std::fabs(of_part(2) - weighted) <= weighted_bound + 8 * kU * std::fabs(weighted));
    }
  }
}

TEST_CASE("cuda gemm: what a product of logits leaves is that of its logits") {
  int turn = 0;
  for (const LogitsCase& c : {LogitsCase{1, 1, 8, 16, 64},
                              {64, 64, 32, 16, 64},
                              {65, 129, 72, 16, 64, 0.5f},
                              {3, 500, 65, 16, 64, 1, 3},
                              {9, 70, 24, 16, 64, 1, 0, 96},
                              {9, 70, 24, 16, 64, 1, 0, 0, false},
                              {130, 300, 40, 1, 128, 0.7f, 2},
                              {128, 128, 96, 1, 128, 1, 0, 192},
                              {200, 65, 33, 1, 128, 1, 0, 0, false}})
    CheckLogits(c, turn++);
  simt::SetEmulatedProperties(kUsual);
}

TEST_CASE("cuda gemm: products that leave what a loss needs are plain in bf16, and not split") {
  cuda::GemmProblem p;
  p.m = 64;
  p.n = 64;
  p.a_dtype = p.b_dtype = p.c_dtype = DType::kBF16;
  p.trans_b = true;
  p.segments.push_back({nullptr, nullptr, 8192, 8192, 8192, {}, false});
  CHECK(cuda::PlanGemm("gemm", p, 132).slabs > 1);
  p.logits.emplace();
  CHECK(cuda::PlanGemm("gemm", p, 132).slabs == 1);
  for (const int tile : {64, 128}) {
    p.tile = tile;
    CHECK(cuda::PlanGemm("gemm", p, 132).tile == tile);
  }
  const auto refused = [&](auto change) {
    cuda::GemmProblem other = p;
    change(other);
    CHECK_THROWS_AS(cuda::PlanGemm("gemm", other, 132), Error);
  };
  refused([](auto& q) { q.bias = &q; });
  refused([](auto& q) { q.trans_b = false; });
  refused([](auto& q) { q.c_dtype = DType::kF32; });
  refused([](auto& q) { q.a_dtype = q.b_dtype = DType::kF16; });
}

}  // namespace
}  // namespace lora::test
