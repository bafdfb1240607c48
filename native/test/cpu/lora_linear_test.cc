// The fused linear layer of the CPU against the reference, on every instruction set.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "backend/cpu/context.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/pack.h"
#include "test/support/cases.h"
#include "test/support/close.h"
#include "test/support/lora_problem.h"
#include "test/support/simd_targets.h"

namespace lora::test {
namespace {

// The table of ops, reduced to what these tests run.
Backend LinearBackend() {
  Backend backend;
  backend.name = "cpu";
  backend.create_context = [](int threads) -> std::unique_ptr<Context> {
    return std::make_unique<cpu::CpuContext>(threads);
  };
  backend.packed_bytes = cpu::PackedBytes;
  backend.op<PackArgs>() = {cpu::ScratchBytes, cpu::Run};
  backend.op<UnpackArgs>() = {cpu::ScratchBytes, cpu::Run};
  backend.op<LoraLinearForwardArgs>() = {cpu::ScratchBytes, cpu::Run};
  backend.op<LoraLinearBackwardArgs>() = {cpu::ScratchBytes, cpu::Run};
  return backend;
}

// One context per thread count for the whole run.
Context& ContextOf(int threads) {
  static cpu::CpuContext contexts[] = {cpu::CpuContext(1), cpu::CpuContext(2), cpu::CpuContext(3),
                                       cpu::CpuContext(4)};
  return contexts[threads - 1];
}

void CheckOutputs(const LoraLinearOutputs& forward, const LoraLinearOutputs& backward,
                  const LoraLinearOutputs& expected, const LoraLinearBounds& bounds) {
  CHECK_CLOSE(backward.dx, expected.dx, bounds.dx);
  for (size_t i = 0; i < expected.y.size(); ++i) {
    CAPTURE(i);
    CHECK_CLOSE(forward.y[i], expected.y[i], bounds.y[i]);
    if (!expected.h[i]) continue;
    CHECK_CLOSE(forward.h[i], expected.h[i], bounds.h[i]);
    CHECK_CLOSE(backward.d_up[i], expected.d_up[i], bounds.d_up[i]);
    CHECK_CLOSE(backward.d_down[i], expected.d_down[i], bounds.d_down[i]);
  }
}

void CheckSame(const LoraLinearOutputs& one, const LoraLinearOutputs& other) {
  for (size_t i = 0; i < one.y.size(); ++i) {
    CHECK_IDENTICAL(one.y[i], other.y[i]);
    if (one.h[i]) CHECK_IDENTICAL(one.h[i], other.h[i]);
  }
}

void CheckSameGradients(const LoraLinearOutputs& one, const LoraLinearOutputs& other) {
  CHECK_IDENTICAL(one.dx, other.dx);
  for (size_t i = 0; i < one.d_up.size(); ++i) {
    if (!one.d_up[i]) continue;
    CHECK_IDENTICAL(one.d_up[i], other.d_up[i]);
    CHECK_IDENTICAL(one.d_down[i], other.d_down[i]);
  }
}

// h as backward receives it, wherever forward ran.
std::vector<Tensor> InF32(const std::vector<Tensor>& h) {
  std::vector<Tensor> out;
  for (const Tensor& t : h) out.push_back(t ? t.As(DType::kF32) : Tensor());
  return out;
}

LoraLinearCase CaseOf(DType dtype, int64_t m, int64_t k, std::vector<BranchCase> branches) {
  LoraLinearCase c;
  c.dtype = dtype;
  c.m = m;
  c.k = k;
  c.branches = std::move(branches);
  return c;
}

TEST_CASE("lora_linear agrees with the reference on every instruction set") {
  const Backend backend = LinearBackend();
  for (const LoraLinearCase& c : LoraLinearCases()) {
    const std::string name = c.Name();
    CAPTURE(name);
    const LoraLinearProblem problem(c);
    const LoraLinearOutputs expected = problem.Expected();
    const LoraLinearBounds bounds = problem.Bounds(expected, Precision::Of(c.dtype));
    ForEachSimdTarget([&] {
      const LoraLinearOutputs forward = problem.Forward(backend, ContextOf(2));
      const LoraLinearOutputs backward = problem.Backward(backend, ContextOf(2), InF32(expected.h));
      CheckOutputs(forward, backward, expected, bounds);
    });
  }
}

TEST_CASE("lora_linear: any number of threads gives the same bits, and so does a second run") {
  const Backend backend = LinearBackend();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const std::vector<LoraLinearCase> cases = {
        CaseOf(dtype, 3, 130, {{129, 5, true}, {64, 0}, {7, 16}}),
        CaseOf(dtype, 70, 1100, {{200, 16, false, 0.25f}, {65, 3, true}}),
        CaseOf(dtype, 600, 40, {{48, 8}}),
    };
    for (const LoraLinearCase& c : cases) {
      const std::string name = c.Name();
      CAPTURE(name);
      const LoraLinearProblem problem(c);
      const LoraLinearOutputs forward = problem.Forward(backend, ContextOf(1));
      const LoraLinearOutputs backward = problem.Backward(backend, ContextOf(1), forward.h);
      for (const int threads : {1, 2, 3, 4}) {
        CAPTURE(threads);
        CheckSame(problem.Forward(backend, ContextOf(threads)), forward);
        CheckSameGradients(problem.Backward(backend, ContextOf(threads), forward.h), backward);
      }
    }
  }
}

TEST_CASE("lora_linear is exact on small whole numbers") {
  const Backend backend = LinearBackend();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    // Every y and dx stays below 2⁸ where it is rounded to bf16, and h below 2⁷.
    for (const LoraLinearCase& c :
         {CaseOf(dtype, 2, 5, {{3, 1}}), CaseOf(dtype, 7, 7, {{9, 2, true}, {3, 0}}),
          CaseOf(dtype, 4, 6, {{5, 1, true}}), CaseOf(dtype, 65, 3, {{2, 1}})}) {
      const std::string name = c.Name();
      CAPTURE(name);
      const LoraLinearProblem problem(c, 7, LoraLinearProblem::Values::kWhole);
      const LoraLinearOutputs expected = problem.Expected();
      ForEachSimdTarget([&] {
        const LoraLinearOutputs forward = problem.Forward(backend, ContextOf(2));
        const LoraLinearOutputs backward =
            problem.Backward(backend, ContextOf(2), InF32(expected.h));
        for (size_t i = 0; i < forward.y.size(); ++i) {
          // Rounding to the output's dtype is all that may happen.
          CHECK_IDENTICAL(forward.y[i], expected.y[i].As(dtype));
          if (!expected.h[i]) continue;
          CHECK_IDENTICAL(forward.h[i], expected.h[i].As(DType::kF32));
          CHECK_IDENTICAL(backward.d_up[i], expected.d_up[i].As(DType::kF32));
          CHECK_IDENTICAL(backward.d_down[i], expected.d_down[i].As(DType::kF32));
        }
        CHECK_IDENTICAL(backward.dx, expected.dx.As(dtype));
      });
    }
  }
}

TEST_CASE("lora_linear: y does not depend on whether h is kept") {
  const Backend backend = LinearBackend();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t m : {1, 4, 5, 100}) {
      CAPTURE(m);
      const LoraLinearProblem problem(CaseOf(dtype, m, 90, {{70, 5}, {30, 20, true}}));
      const LoraLinearOutputs with = problem.Forward(backend, ContextOf(2), true);
      const LoraLinearOutputs without = problem.Forward(backend, ContextOf(2), false);
      for (size_t i = 0; i < with.y.size(); ++i) CHECK_IDENTICAL(with.y[i], without.y[i]);
    }
  }
}

TEST_CASE("lora_linear: each gradient alone has the bits that it has among all") {
  const Backend backend = LinearBackend();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const LoraLinearProblem problem(
        CaseOf(dtype, 20, 90, {{70, 5, false, 0.1f}, {33, 20}, {9, 0}}));
    const LoraLinearOutputs forward = problem.Forward(backend, ContextOf(2));
    const LoraLinearOutputs all = problem.Backward(backend, ContextOf(2), forward.h);
    std::vector<FrozenWeight> weights;
    LoraLinearBackwardArgs args;
    for (size_t i = 0; i < problem.branches.size(); ++i) {
      const BranchOperands& branch = problem.branches[i];
      weights.emplace_back(backend, branch.weight, ContextOf(2));
      args.branches.push_back({weights.back().view(), branch.bias, branch.up, branch.down,
                               branch.scale, branch.dropout});
      args.g.push_back(problem.g[i]);
    }
    args.h.resize(3);
    args.d_up.resize(3);
    args.d_down.resize(3);
    SUBCASE("dx") {
      LoraLinearBackwardArgs one = args;
      const Tensor dx(dtype, problem.x.shape());
      one.dx = dx;
      Run(backend, one, ContextOf(2));
      CHECK_IDENTICAL(dx, all.dx);
    }
    SUBCASE("d_up") {
      LoraLinearBackwardArgs one = args;
      const Tensor d_up(DType::kF32, problem.branches[1].up.shape());
      one.h[1] = forward.h[1];
      one.d_up[1] = d_up;
      Run(backend, one, ContextOf(2));
      CHECK_IDENTICAL(d_up, all.d_up[1]);
    }
    SUBCASE("d_down") {
      LoraLinearBackwardArgs one = args;
      const Tensor d_down(DType::kF32, problem.branches[0].down.shape());
      one.x = problem.x;
      one.d_down[0] = d_down;
      Run(backend, one, ContextOf(2));
      CHECK_IDENTICAL(d_down, all.d_down[0]);
    }
  }
}

TEST_CASE("lora_linear: NaN in one row stays in that row") {
  const Backend backend = LinearBackend();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    LoraLinearProblem problem(CaseOf(dtype, 9, 40, {{30, 4}}));
    const LoraLinearOutputs clean = problem.Forward(backend, ContextOf(2));
    problem.x.Set(5 * 40 + 39, std::numeric_limits<double>::quiet_NaN());
    const LoraLinearOutputs dirty = problem.Forward(backend, ContextOf(2));
    for (int64_t i = 0; i < 9 * 30; ++i) {
      const bool poisoned = i / 30 == 5;
      CHECK(std::isnan(dirty.y[0].at(i)) == poisoned);
      if (!poisoned) CHECK(dirty.y[0].at(i) == clean.y[0].at(i));
    }
  }
}

// The bounds must be able to tell a wrong kernel: these mutations
// (docs/internals/numerics.md) must be rejected at k = 4096.
TEST_CASE("lora_linear: the bounds reject wrong results") {
  const Backend backend = LinearBackend();
  const LoraLinearProblem problem(CaseOf(DType::kF32, 6, 4096, {{64, 8}}));
  const LoraLinearOutputs expected = problem.Expected();
  const LoraLinearBounds bounds = problem.Bounds(expected, Precision::Of(DType::kF32));
  const auto rejected = [&](const LoraLinearProblem& mutant) {
    const LoraLinearOutputs wrong = mutant.Forward(backend, ContextOf(2));
    return !Close(wrong.y[0], expected.y[0], bounds.y[0]).ok;
  };
  CHECK_FALSE(rejected(problem));
  LoraLinearProblem last_k = problem;
  for (int64_t i = 0; i < 6; ++i) last_k.x.Set(i * 4096 + 4095, 0);
  CHECK(rejected(last_k));
  LoraLinearProblem scale = problem;
  scale.branches[0].scale *= 1.01f;
  CHECK(rejected(scale));
  LoraLinearProblem rank = problem;
  for (int64_t i = 0; i < 64; ++i) rank.branches[0].up.Set(i * 8 + 7, 0);
  CHECK(rejected(rank));
  LoraLinearProblem none = problem;
  none.branches[0].scale = 0;
  CHECK(rejected(none));
}

}  // namespace
}  // namespace lora::test
