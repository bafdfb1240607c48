// Holds the fused linear layer against the reference, within the bounds of lora_problem.h, and on
// whole numbers without any.
#include <cmath>
#include <limits>
#include <vector>

#include "test/support/cases.h"
#include "test/support/tested_precision.h"

namespace lora::test {
namespace {

// dx, then y, h, d_up and d_down of each branch, without what is absent.
template <class T>
std::vector<T> ListOf(const T& dx, const std::vector<T>& y, const std::vector<T>& h,
                      const std::vector<T>& d_up, const std::vector<T>& d_down,
                      const LoraLinearProblem& problem) {
  std::vector<T> list = {dx};
  for (size_t i = 0; i < y.size(); ++i) {
    list.push_back(y[i]);
    if (!problem.branches[i].up) continue;
    list.push_back(h[i]);
    list.push_back(d_up[i]);
    list.push_back(d_down[i]);
  }
  return list;
}

std::vector<Tensor> RunAll(const LoraLinearProblem& problem, const std::vector<Tensor>& h,
                           Context& context) {
  const LoraLinearOutputs forward = problem.Forward(Tested().backend, context);
  const LoraLinearOutputs backward = problem.Backward(Tested().backend, context, h);
  return ListOf(backward.dx, forward.y, forward.h, backward.d_up, backward.d_down, problem);
}

void CheckAgainstReference(const LoraLinearCase& c) {
  CAPTURE(c.Name());
  const LoraLinearProblem problem(c);
  const LoraLinearOutputs e = problem.Expected();
  const LoraLinearBounds b = problem.Bounds(e, PrecisionOf(problem));
  const std::vector<Tensor> h = InF32(e.h);
  const std::vector<Tensor> expected = ListOf(e.dx, e.y, e.h, e.d_up, e.d_down, problem);
  const auto bounds = ListOf(b.dx, b.y, b.h, b.d_up, b.d_down, problem);
  OnPathsInTurn([&](Context& context) { return RunAll(problem, h, context); },
                [&](const std::vector<Tensor>& out) {
                  REQUIRE(out.size() == expected.size());
                  for (size_t i = 0; i < out.size(); ++i) {
                    CAPTURE(i);
                    CHECK_CLOSE(out[i], expected[i], bounds[i]);
                  }
                });
}

// Returns the table of all backends, and cases around what only a GPU has: the limit of decoding
// (16 rows), tiles of 64 and 128, k-blocks of 32, rows at odd addresses.
std::vector<LoraLinearCase> Cases() {
  std::vector<LoraLinearCase> cases = LoraLinearCases();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (LoraLinearCase& c : std::vector<LoraLinearCase>{
             CaseOf(dtype, 16, 33, {{31, 3, true, 0.2f, true}}),
             CaseOf(dtype, 17, 33, {{31, 3, true, 0.2f}}),
             CaseOf(dtype, 65, 47, {{129, 64, true, 0.5f, true}}),
             CaseOf(dtype, 33, 30, {{66, 1}, {65, 17, true}, {0, 2}, {8, 0, true}, {3, 5}}),
         })
      cases.push_back(c);
  }
  return cases;
}

TEST_CASE("lora_linear agrees with the reference") {
  for (const LoraLinearCase& c : Cases()) CheckAgainstReference(c);
}

TEST_CASE("lora_linear agrees with the reference in both phases") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const LoraLinearCase& c :
         {CaseOf(dtype, 1, 70, {{66, 5, true}, {0, 2}, {30, 0}}), CaseOf(dtype, 0, 9, {{5, 2}}),
          CaseOf(dtype, 3, 0, {{5, 2, true}}), CaseOf(dtype, 7, 129, {{130, 17, true}, {3, 1}}),
          CaseOf(dtype, 16, 600, {{65, 8}}), CaseOf(dtype, 33, 70, {{129, 3, true}})}) {
      CAPTURE(c.Name());
      LoraLinearProblem problem(c);
      const LoraLinearOutputs expected = problem.Expected();
      for (const LinearPhase phase : {LinearPhase::kPrefill, LinearPhase::kDecode}) {
        CAPTURE(phase);
        problem.phase = phase;
        const LoraLinearBounds bounds = problem.Bounds(expected, PrecisionOf(problem));
        OnPathsInTurn(
            [&](Context& context) {
              const LoraLinearOutputs out = problem.Forward(Tested().backend, context);
              std::vector<Tensor> list = out.y;
              for (const Tensor& h : out.h)
                if (h) list.push_back(h);
              return list;
            },
            [&](const std::vector<Tensor>& out) {
              size_t at = 0;
              for (size_t i = 0; i < expected.y.size(); ++i)
                CHECK_CLOSE(out[at++], expected.y[i], bounds.y[i]);
              for (size_t i = 0; i < expected.h.size(); ++i)
                if (expected.h[i]) CHECK_CLOSE(out[at++], expected.h[i], bounds.h[i]);
            });
      }
    }
  }
}

TEST_CASE("lora_linear: every path gives the same bits") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    std::vector<LoraLinearCase> cases = {
        CaseOf(dtype, 3, 130, {{29, 5, true}, {64, 0}, {7, 16}}),
        CaseOf(dtype, 37, 300, {{70, 16, false, 0.25f}, {65, 3, true, 0, true}}),
    };
    if (!Tested().emulated) {
      cases.push_back(CaseOf(dtype, 3, 130, {{129, 5, true}, {64, 0}, {7, 16}}));
      cases.push_back(CaseOf(dtype, 70, 1100, {{200, 16, false, 0.25f}, {65, 3, true}}));
      cases.push_back(CaseOf(dtype, 1100, 40, {{48, 8}}));
    }
    for (const LoraLinearCase& c : cases) {
      CAPTURE(c.Name());
      const LoraLinearProblem problem(c);
      const std::vector<Tensor> h = InF32(problem.Expected().h);
      OnEveryPath([&](Context& context) { return RunAll(problem, h, context); },
                  [](const std::vector<Tensor>&) {});
    }
  }
}

TEST_CASE("lora_linear is exact on small whole numbers") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    // Every y and dx stays below 2⁸ where it is rounded to bf16, and h below 2⁷.
    for (const LoraLinearCase& c :
         {CaseOf(dtype, 2, 5, {{3, 1}}), CaseOf(dtype, 7, 7, {{9, 2, true}, {3, 0}}),
          CaseOf(dtype, 4, 6, {{5, 1, true, 0, true}}),
          CaseOf(dtype, 18, 6, {{5, 1, true, 0, true}}), CaseOf(dtype, 65, 3, {{2, 1}})}) {
      CAPTURE(c.Name());
      const LoraLinearProblem problem(c, 7, LoraLinearProblem::Values::kWhole);
      const LoraLinearOutputs e = problem.Expected();
      const std::vector<Tensor> h = InF32(e.h);
      const std::vector<Tensor> expected = ListOf(e.dx, e.y, e.h, e.d_up, e.d_down, problem);
      OnEveryPath([&](Context& context) { return RunAll(problem, h, context); },
                  [&](const std::vector<Tensor>& out) {
                    REQUIRE(out.size() == expected.size());
                    // Only rounding to the dtype of the result may happen.
                    for (size_t i = 0; i < out.size(); ++i)
                      CHECK_IDENTICAL(out[i], expected[i].As(out[i].dtype()));
                  });
    }
  }
}

TEST_CASE("lora_linear: y does not depend on whether h is kept") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t m : {1, 4, 5, 16, 17, 70, 100}) {
      CAPTURE(m);
      const LoraLinearProblem problem(CaseOf(dtype, m, 90, {{70, 5}, {30, 20, true}}));
      const auto context = NextContext();
      const LoraLinearOutputs with = problem.Forward(Tested().backend, *context, true);
      const LoraLinearOutputs without = problem.Forward(Tested().backend, *context, false);
      for (size_t i = 0; i < with.y.size(); ++i) CHECK_IDENTICAL(with.y[i], without.y[i]);
    }
  }
}

// Which gradients are wanted may decide how a GPU splits sums and so change the last bits; the
// results stay within the bounds.
TEST_CASE("lora_linear: each gradient alone") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const LoraLinearProblem problem(
        CaseOf(dtype, 20, 90, {{70, 5, false, 0.1f}, {33, 20}, {9, 0}}));
    const LoraLinearOutputs expected = problem.Expected();
    const LoraLinearBounds bounds = problem.Bounds(expected, PrecisionOf(problem));
    const std::vector<Tensor> h = InF32(expected.h);
    const auto context = NextContext();
    std::vector<FrozenWeight> weights;
    LoraLinearBackwardArgs args;
    for (const BranchOperands& branch : problem.branches) {
      weights.emplace_back(Tested().backend, branch.weight, *context);
      args.branches.push_back({weights.back().view(), branch.bias, branch.up, branch.down,
                               branch.scale, branch.dropout});
    }
    for (const Tensor& g : problem.g) args.g.push_back(g);
    args.h.resize(3);
    args.d_up.resize(3);
    args.d_down.resize(3);
    SUBCASE("dx") {
      LoraLinearBackwardArgs one = args;
      const Tensor dx(dtype, problem.x.shape());
      one.dx = dx;
      RunTested(one, *context);
      CHECK_CLOSE(dx, expected.dx, bounds.dx);
    }
    SUBCASE("d_up") {
      LoraLinearBackwardArgs one = args;
      const Tensor d_up(DType::kF32, problem.branches[1].up.shape());
      one.h[1] = h[1];
      one.d_up[1] = d_up;
      RunTested(one, *context);
      CHECK_CLOSE(d_up, expected.d_up[1], bounds.d_up[1]);
    }
    SUBCASE("d_down") {
      LoraLinearBackwardArgs one = args;
      const Tensor d_down(DType::kF32, problem.branches[0].down.shape());
      one.x = problem.x;
      one.d_down[0] = d_down;
      RunTested(one, *context);
      CHECK_CLOSE(d_down, expected.d_down[0], bounds.d_down[0]);
    }
  }
}

// Returns dx, then d_up and d_down of each branch, of two calls: the first one keeps u, which is
// multiplied by `factor` before the second one takes it.
std::vector<Tensor> RunInParts(const LoraLinearProblem& problem, const std::vector<Tensor>& h,
                               double factor, Context& context) {
  std::vector<FrozenWeight> weights;
  std::vector<Tensor> u, results = {Tensor(problem.x.dtype(), problem.x.shape())};
  const auto result = [&](const Tensor& like) {
    return like ? results.emplace_back(DType::kF32, like.shape()).view() : TensorView();
  };
  LoraLinearBackwardArgs first, rest;
  results.reserve(1 + 2 * problem.branches.size());
  for (size_t i = 0; i < problem.branches.size(); ++i) {
    const BranchOperands& b = problem.branches[i];
    weights.emplace_back(Tested().backend, b.weight, context);
    first.branches.push_back({weights.back().view(), b.bias, b.up, b.down, b.scale, b.dropout});
    first.g.push_back(problem.g[i]);
    u.push_back(b.up ? Tensor(DType::kF32, h[i].shape()) : Tensor());
    first.kept_u.push_back(u[i]);
    rest.u.push_back(u[i]);
    rest.h.push_back(h[i]);
    rest.d_up.push_back(result(b.up));
    rest.d_down.push_back(result(b.down));
  }
  rest.branches = first.branches;
  rest.g = first.g;
  first.h.resize(rest.h.size());
  first.d_up = first.d_down = first.h;
  first.dx = results[0];
  rest.x = problem.x;
  RunTested(first, context);
  for (Tensor& t : u) {
    CHECK_MESSAGE((!t || t.intact()), "wrote behind the end of u");
    for (int64_t j = 0; j < t.numel(); ++j) t.Set(j, factor * t.at(j));
  }
  RunTested(rest, context);
  return results;
}

TEST_CASE(
    "lora_linear: dx in one call and d_up with d_down in another have the bits of all in one") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const LoraLinearCase& c :
         {CaseOf(dtype, 20, 90, {{70, 5, false, 0.1f}, {33, 20}, {9, 0}}),
          CaseOf(dtype, 3, 33, {{31, 3, true, 0.2f}}), CaseOf(dtype, 0, 9, {{5, 2}}),
          CaseOf(dtype, 70, 47, {{129, 16}, {8, 1, false, 0.5f}})}) {
      CAPTURE(c.Name());
      const LoraLinearProblem problem(c);
      const std::vector<Tensor> h = InF32(problem.Expected().h);
      const auto context = NextContext();
      const LoraLinearOutputs all = problem.Backward(Tested().backend, *context, h);
      const std::vector<Tensor> parts = RunInParts(problem, h, 1, *context);
      const std::vector<Tensor> twice = RunInParts(problem, h, 2, *context);
      CHECK_IDENTICAL(parts[0], all.dx);
      size_t at = 1;
      for (size_t i = 0; i < problem.branches.size(); ++i) {
        if (!problem.branches[i].up) continue;
        CAPTURE(i);
        CHECK_IDENTICAL(parts[at], all.d_up[i]);
        CHECK_IDENTICAL(twice[at++], all.d_up[i]);
        CHECK_IDENTICAL(parts[at], all.d_down[i]);
        // It is computed from the u that is given.
        for (int64_t j = 0; j < parts[at].numel(); ++j)
          REQUIRE(twice[at].at(j) == 2 * parts[at].at(j));
        ++at;
      }
    }
  }
}

// Gradients that are asked for in the call that keeps u are those of a call that does not.
TEST_CASE("lora_linear: u may be kept beside all gradients, and alone") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const LoraLinearProblem problem(CaseOf(dtype, 20, 90, {{70, 5, false, 0.1f}}));
    const std::vector<Tensor> h = InF32(problem.Expected().h);
    const auto context = NextContext();
    const LoraLinearOutputs expected = problem.Backward(Tested().backend, *context, h);
    const BranchOperands& b = problem.branches[0];
    const FrozenWeight weight(Tested().backend, b.weight, *context);
    const Tensor dx(dtype, problem.x.shape()), d_up(DType::kF32, b.up.shape());
    const Tensor d_down(DType::kF32, b.down.shape()), u(DType::kF32, {20, 5}), alone = u;
    LoraLinearBackwardArgs args;
    args.branches = {{weight.view(), b.bias, b.up, b.down, b.scale, b.dropout}};
    args.g = {problem.g[0]};
    args.h = args.d_up = args.d_down = {TensorView()};
    args.kept_u = {alone};
    RunTested(args, *context);
    args.x = problem.x;
    args.h = {h[0]};
    args.dx = dx;
    args.d_up = {d_up};
    args.d_down = {d_down};
    args.kept_u = {u};
    RunTested(args, *context);
    CHECK_IDENTICAL(dx, expected.dx);
    CHECK_IDENTICAL(d_up, expected.d_up[0]);
    CHECK_IDENTICAL(d_down, expected.d_down[0]);
    CHECK_CLOSE(alone, u, (Tolerance{1e-5, 1e-5}));
  }
}

TEST_CASE("lora_linear: NaN in one row stays in that row") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t m : {9, 21}) {
      const auto context = NextContext();
      LoraLinearProblem problem(CaseOf(dtype, m, 40, {{30, 4}}));
      const LoraLinearOutputs clean = problem.Forward(Tested().backend, *context);
      problem.x.Set(5 * 40 + 39, std::numeric_limits<double>::quiet_NaN());
      const LoraLinearOutputs dirty = problem.Forward(Tested().backend, *context);
      for (int64_t i = 0; i < m * 30; ++i) {
        const bool poisoned = i / 30 == 5;
        REQUIRE(std::isnan(dirty.y[0].at(i)) == poisoned);
        if (!poisoned) REQUIRE(dirty.y[0].at(i) == clean.y[0].at(i));
      }
    }
  }
}

// The bounds must be able to tell a wrong kernel: these mutations (docs/internals/numerics.md) are
// rejected, for f32 at k = 4096 where the backend is fast enough for it.
TEST_CASE("lora_linear: the bounds reject wrong results") {
  const auto reject = [](DType dtype, int64_t m, int64_t k, int64_t n, float wrong_scale) {
    CAPTURE(NameOf(dtype));
    const LoraLinearProblem problem(CaseOf(dtype, m, k, {{n, 8}}));
    const LoraLinearOutputs expected = problem.Expected();
    const LoraLinearBounds bounds = problem.Bounds(expected, PrecisionOf(problem));
    const auto context = NextContext();
    const auto rejected = [&](const LoraLinearProblem& mutant) {
      const LoraLinearOutputs wrong = mutant.Forward(Tested().backend, *context);
      return !Close(wrong.y[0], expected.y[0], bounds.y[0]).ok;
    };
    CHECK_FALSE(rejected(problem));
    LoraLinearProblem last_k = problem;
    for (int64_t i = 0; i < m; ++i) last_k.x.Set(i * k + k - 1, 0);
    CHECK(rejected(last_k));
    LoraLinearProblem scale = problem;
    scale.branches[0].scale *= wrong_scale;
    CHECK(rejected(scale));
    LoraLinearProblem rank = problem;
    for (int64_t i = 0; i < n; ++i) rank.branches[0].up.Set(i * 8 + 7, 0);
    CHECK(rejected(rank));
    LoraLinearProblem none = problem;
    none.branches[0].scale = 0;
    CHECK(rejected(none));
    LoraLinearProblem factor = problem;
    factor.branches[0].factor = Full(DType::kF32, {n}, wrong_scale);
    CHECK(rejected(factor));
  };
  reject(DType::kBF16, 20, 512, 40, 1.02f);
  if (!Tested().emulated) reject(DType::kF32, 6, 4096, 64, 1.01f);
}

}  // namespace
}  // namespace lora::test
