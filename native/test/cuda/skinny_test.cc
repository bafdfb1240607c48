// Holds the low-rank products against sums in doubles.
#include "backend/cuda/skinny.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "test/support/device_products.h"

namespace lora::test {
namespace {

// Every launch leaves the counters as it found them.
void CheckCounters(cuda::Gpu& gpu) {
  const std::vector<uint32_t> zeros(
      static_cast<size_t>(cuda::Gpu::kCounters * gpu.properties().multiprocessors));
  std::vector<uint32_t> counters = zeros;
  gpu.Download(counters.data(), gpu.counters(), counters.size() * sizeof(uint32_t));
  CHECK(counters == zeros);
}

// ---- H and U ------------------------------------------------------------------------------------

struct Term {
  int64_t rank = 0;
  float dropout = 0;
};
struct DownProblem {
  int64_t m = 0, k = 0;
  std::vector<Term> terms;
  int64_t padding = 0;  // of the rows of z, elements
};
struct DownOutputs {
  std::vector<Tensor> h, t;
};

struct DownCase {
  DType dtype = DType::kF32;
  bool by_columns = false, whole = false, in_graph = false;
  std::vector<DownProblem> problems;
  std::vector<Tensor> z, small;  // per problem; per term of all problems
  float scale = 0.75f;

  DownCase(DType dtype, bool by_columns, bool whole, std::vector<DownProblem> of)
      : dtype(dtype), by_columns(by_columns), whole(whole), problems(std::move(of)) {
    uint64_t seed = 1;
    for (const DownProblem& problem : problems) {
      z.push_back(Random(whole, dtype, {problem.m, problem.k}, ++seed));
      for (const Term& term : problem.terms)
        small.push_back(
            Random(whole, DType::kF32,
                   by_columns ? Shape{problem.k, term.rank} : Shape{term.rank, problem.k}, ++seed));
    }
  }

  DownOutputs Run(int turn, int64_t skew, const cuda::DeviceProperties& device = kUsual) const {
    MirrorContext context = ContextOf(turn, device);
    std::vector<DeviceMatrix> zs, smalls, hs, ts;
    cuda::LowRankDownArgs args;
    args.dtype = args.t_dtype = dtype;
    args.by_columns = by_columns;
    for (size_t i = 0, n = 0; i < problems.size(); ++i) {
      const DownProblem& problem = problems[i];
      const int64_t pitch = problem.k + problem.padding;
      cuda::LowRankDownProblem& to = args.problems.emplace_back();
      zs.emplace_back(z[i], pitch, skew, "z");
      to.z = zs.back().data();
      to.m = problem.m;
      to.k = problem.k;
      to.pitch = pitch;
      uint32_t layer = 0;
      for (const Term& term : problem.terms) {
        const Tensor& s = small[n++];
        smalls.emplace_back(s, s.shape()[1], skew, "small");
        hs.emplace_back(DType::kF32, problem.m, term.rank, term.rank, skew, "h");
        const int64_t padded = cuda::PaddedRank(term.rank), t_pitch = padded + 3;
        ts.emplace_back(dtype, problem.m, padded, t_pitch, skew, "t");
        to.terms.push_back({smalls.back().floats(), term.rank, DropoutOf(term.dropout, ++layer),
                            hs.back().floats(), ts.back().data(), t_pitch, scale});
      }
    }
    const cuda::LowRankPlan plan = cuda::PlanLowRankDown(args, context.threads());
    const DeviceScratch scratch(plan.scratch_bytes);
    const auto run = [&] { cuda::LowRankDown(args, plan, scratch, context.device); };
    if (in_graph) {
      const std::unique_ptr<Graph> graph = context.device.Capture(run);
      REQUIRE(graph != nullptr);
      for (int time = 0; time < 3; ++time) REQUIRE(context.device.Launch(*graph));
      context.device.Finish();
    } else {
      run();
      context.device.Finish();
    }
    CHECK(simt::EmulatedCounts(context.device.gpu()).WavefrontsPerPhase() <= 1.0);
    CheckCounters(context.device.gpu());
    DownOutputs out;
    for (const DeviceMatrix& h : hs) out.h.push_back(h.Download());
    for (const DeviceMatrix& t : ts) out.t.push_back(t.Download());
    return out;
  }

  void Check(const DownOutputs& out) const {
    size_t n = 0;
    for (size_t i = 0; i < problems.size(); ++i) {
      const DownProblem& problem = problems[i];
      uint32_t layer = 0;
      for (const Term& term : problem.terms) {
        const Vector zs = Dropped(z[i], DropoutOf(term.dropout, ++layer));
        const Vector ss = small[n].Values();
        const int64_t k_pitch = by_columns ? term.rank : 1, r_pitch = by_columns ? 1 : problem.k;
        CheckResult(out.h[n],
                    ProductOf(
                        problem.m, term.rank, problem.k, 1, LowRankSumError(dtype, problem.k),
                        [&](int64_t row, int64_t k) { return At(zs, row * problem.k + k); },
                        [&](int64_t k, int64_t r) { return At(ss, k * k_pitch + r * r_pitch); }),
                    whole);
        // t is h scaled in f32 and rounded once, with zeros behind the rank.
        Tensor t = Zeros(dtype, out.t[n].shape());
        for (int64_t row = 0; row < problem.m; ++row)
          for (int64_t r = 0; r < term.rank; ++r)
            t.Set(row * t.shape()[1] + r,
                  scale * static_cast<float>(out.h[n].at(row * term.rank + r)));
        CHECK_IDENTICAL(out.t[n], t);
        ++n;
      }
    }
  }
};

void CheckSame(const DownOutputs& one, const DownOutputs& other) {
  for (size_t i = 0; i < one.h.size(); ++i) {
    CHECK_IDENTICAL(one.h[i], other.h[i]);
    CHECK_IDENTICAL(one.t[i], other.t[i]);
  }
}

const std::vector<std::vector<DownProblem>>& DownProblems() {
  static const std::vector<std::vector<DownProblem>> problems = {
      {{1, 1, {{1}}}},
      {{3, 70, {{3}, {16, 0.5f}}, 2}},           // few rows
      {{16, 1032, {{5}}}},                       // the last of them
      {{17, 8, {{1}}}},                          // the first of many
      {{129, 65, {{3, 0.25f}, {16, 0.5f}}, 7}},  // two tiles of rows, k odd
      {{40, 200, {{64}, {9}}, 8}},               // more tiles of ranks than a job has
      {{33, 136, {{8, 0.1f}, {4, 0.1f}, {24}}, 0}, {20, 72, {{16}}, 0}},  // two z
      {{0, 5, {{2}}}, {18, 0, {{17}}}},  // nothing, and sums of nothing
  };
  return problems;
}

TEST_CASE("cuda low-rank down: H and U agree with doubles, whatever the addresses and schedule") {
  int turn = 0;
  for (const DType dtype : kDTypes) {
    for (const bool by_columns : {false, true}) {
      for (const std::vector<DownProblem>& problems : DownProblems()) {
        const DownCase c(dtype, by_columns, false, problems);
        const std::string name = NameOf(dtype);
        CAPTURE(name);
        CAPTURE(by_columns);
        CAPTURE(problems[0].m);
        CAPTURE(problems[0].k);
        const DownOutputs out = c.Run(turn++, 0);
        c.Check(out);
        CheckSame(c.Run(turn++, 1), out);
      }
    }
  }
}

TEST_CASE("cuda low-rank down is exact on whole numbers") {
  int turn = 0;
  for (const DType dtype : kDTypes) {
    for (const bool by_columns : {false, true}) {
      const DownCase c(dtype, by_columns, true, {{50, 300, {{20}, {3, 0.5f}}, 4}, {7, 33, {{1}}}});
      c.Check(c.Run(turn++, 0));
    }
  }
}

TEST_CASE("cuda low-rank down: numbers of every size keep 24 bits") {
  for (const DType dtype : kDTypes) {
    DownCase c(dtype, false, false, {{20, 64, {{8}}}});
    for (int64_t i = 0; i < c.small[0].numel(); ++i)
      c.small[0].Set(i, std::ldexp(c.small[0].at(i), static_cast<int>(i % 60) - 40));
    c.Check(c.Run(0, 0));
  }
}

TEST_CASE("cuda low-rank down: NaN in one row stays in that row") {
  for (const DType dtype : kDTypes) {
    DownCase c(dtype, false, false, {{30, 40, {{3}}}});
    const DownOutputs clean = c.Run(0, 0);
    c.z[0].Set(5 * 40 + 39, std::numeric_limits<double>::quiet_NaN());
    const DownOutputs dirty = c.Run(0, 0);
    for (int64_t i = 0; i < 30 * 3; ++i) {
      const double value = dirty.h[0].at(i);
      CHECK((i / 3 == 5 ? std::isnan(value) : value == clean.h[0].at(i)));
    }
  }
}

TEST_CASE("cuda low-rank down: launched again and again by a graph, it gives the same bits") {
  int turn = 0;
  for (const bool by_columns : {false, true}) {
    DownCase c(DType::kBF16, by_columns, false, {{140, 520, {{8}, {16, 0.5f}}}, {20, 72, {{3}}}});
    const DownOutputs out = c.Run(turn++, 0);
    c.in_graph = true;
    for (int schedule = 0; schedule < 3; ++schedule) CheckSame(c.Run(turn++, 0), out);
  }
}

// ---- d_down and d_up ----------------------------------------------------------------------------

struct Gradient {
  int64_t m = 0, cols = 0, rank = 0;
  bool by_columns = false;
  float dropout = 0;
  bool same_z = false;  // as the one before
  int64_t padding = 0;
};

struct GradientCase {
  DType dtype;
  bool whole;
  std::vector<Gradient> gradients;
  std::vector<Tensor> z, p;
  float scale = 0.5f;

  GradientCase(DType dtype, bool whole, std::vector<Gradient> of)
      : dtype(dtype), whole(whole), gradients(std::move(of)) {
    uint64_t seed = 100;
    for (const Gradient& g : gradients) {
      z.push_back(g.same_z ? z.back() : Random(whole, dtype, {g.m, g.cols}, ++seed));
      p.push_back(Random(whole, DType::kF32, {g.m, g.rank}, ++seed));
    }
  }

  std::vector<Tensor> Run(int turn, int64_t skew,
                          const cuda::DeviceProperties& device = kUsual) const {
    MirrorContext context = ContextOf(turn, device);
    std::vector<DeviceMatrix> zs, ps, outs;
    cuda::LowRankGradientsArgs args;
    args.dtype = dtype;
    for (size_t i = 0; i < gradients.size(); ++i) {
      const Gradient& g = gradients[i];
      if (!g.same_z) zs.emplace_back(z[i], g.cols + g.padding, skew, "z");
      ps.emplace_back(p[i], g.rank, skew, "p");
      const Shape shape = g.by_columns ? Shape{g.cols, g.rank} : Shape{g.rank, g.cols};
      outs.emplace_back(DType::kF32, shape[0], shape[1], shape[1], skew, "out");
      args.gradients.push_back({zs.back().data(), g.m, g.cols, g.cols + g.padding,
                                DropoutOf(g.dropout, static_cast<uint32_t>(i)), ps.back().floats(),
                                g.rank, scale, outs.back().floats(), g.by_columns});
    }
    const cuda::LowRankPlan plan = cuda::PlanLowRankGradients(args, context.threads());
    const DeviceScratch scratch(plan.scratch_bytes);
    cuda::LowRankGradients(args, plan, scratch, context.device);
    context.device.Finish();
    CHECK(simt::EmulatedCounts(context.device.gpu()).WavefrontsPerPhase() <= 1.0);
    CheckCounters(context.device.gpu());
    std::vector<Tensor> results;
    for (const DeviceMatrix& out : outs) results.push_back(out.Download());
    return results;
  }

  void Check(const std::vector<Tensor>& out) const {
    for (size_t i = 0; i < gradients.size(); ++i) {
      const Gradient& g = gradients[i];
      const Vector zs = Dropped(z[i], DropoutOf(g.dropout, static_cast<uint32_t>(i)));
      const Vector ps = p[i].Values();
      const auto of_z = [&](int64_t col, int64_t row) { return At(zs, row * g.cols + col); };
      const auto of_p = [&](int64_t row, int64_t r) { return At(ps, row * g.rank + r); };
      const double error = LowRankSumError(dtype, g.m);
      const Expected expected = g.by_columns
                                    ? ProductOf(g.cols, g.rank, g.m, scale, error, of_z, of_p)
                                    : ProductOf(
                                          g.rank, g.cols, g.m, scale, error,
                                          [&](int64_t r, int64_t row) { return of_p(row, r); },
                                          [&](int64_t row, int64_t col) { return of_z(col, row); });
      CAPTURE(i);
      CheckResult(out[i], expected, whole);
    }
  }
};

TEST_CASE("cuda low-rank gradients agree with doubles, whatever the addresses and schedule") {
  const std::vector<std::vector<Gradient>> lists = {
      {{1, 1, 1}},
      {{3, 5, 2, true}},
      {{65, 130, 16, false, 0.25f, false, 6}},  // two tiles of columns, one row beyond a step
      {{300, 136, 3, true}},                    // split
      {{70, 72, 16, false, 0.1f},
       {70, 72, 3, false, 0, true},
       {70, 72, 8, false, 0.5f, true},
       {70, 40, 16, true},
       {70, 24, 3, true, 0, false, 8},
       {70, 17, 8, true}},                               // q, k, v
      {{33, 20, 65, true}, {33, 20, 70, false, 0.25f}},  // more ranks than a job has
      {{0, 9, 4, true}, {5, 0, 4}},                      // sums of nothing, and nothing
  };
  int turn = 0;
  for (const DType dtype : kDTypes) {
    for (const std::vector<Gradient>& list : lists) {
      const std::string name = NameOf(dtype);
      CAPTURE(name);
      CAPTURE(list[0].m);
      CAPTURE(list[0].cols);
      const GradientCase c(dtype, false, list);
      const std::vector<Tensor> out = c.Run(turn++, 0);
      c.Check(out);
      const std::vector<Tensor> again = c.Run(turn++, 1);
      for (size_t i = 0; i < out.size(); ++i) CHECK_IDENTICAL(again[i], out[i]);
    }
  }
}

TEST_CASE("cuda low-rank gradients are exact on whole numbers") {
  for (const DType dtype : kDTypes) {
    const GradientCase c(dtype, true, {{200, 40, 20, false, 0.5f}, {200, 150, 5, true}});
    c.Check(c.Run(1, 0));
  }
}

// A device with less shared memory than three stages of eight tiles of ranks need.
TEST_CASE("cuda low-rank products: a small device gives the same bits, without bank conflicts") {
  for (const DType dtype : kDTypes) {
    for (const bool by_columns : {false, true}) {
      const DownCase down(dtype, by_columns, false,
                          {{60, 520, {{8, 0.1f}, {8, 0.2f}, {16, 0.3f}, {32, 0.5f}}}});
      const GradientCase up(dtype, false, {{520, 60, 64, by_columns, 0.1f}});
      const DownOutputs h = down.Run(2, 0);
      const std::vector<Tensor> g = up.Run(2, 0);
      down.Check(h);
      up.Check(g);
      CheckSame(down.Run(4, 0, kSmall), h);
      CHECK_IDENTICAL(up.Run(4, 0, kSmall)[0], g[0]);
    }
  }
}

}  // namespace
}  // namespace lora::test
