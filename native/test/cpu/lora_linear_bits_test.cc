#include <doctest/doctest.h>

#include "backend/cpu/context.h"
#include "test/support/close.h"
#include "test/support/lora_problem.h"

namespace lora::test {
namespace {

TEST_CASE("cpu lora_linear: each gradient alone has the bits that it has among all") {
  const Backend& backend = CpuBackend();
  cpu::CpuContext context(2);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const LoraLinearProblem problem(
        CaseOf(dtype, 20, 90, {{70, 5, false, 0.1f}, {33, 20}, {9, 0}}));
    const LoraLinearOutputs forward = problem.Forward(backend, context);
    const LoraLinearOutputs all = problem.Backward(backend, context, forward.h);
    std::vector<FrozenWeight> weights;
    LoraLinearBackwardArgs args;
    for (size_t i = 0; i < problem.branches.size(); ++i) {
      const BranchOperands& branch = problem.branches[i];
      weights.emplace_back(backend, branch.weight, context);
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
      Run(backend, one, context);
      CHECK_IDENTICAL(dx, all.dx);
    }
    SUBCASE("d_up") {
      LoraLinearBackwardArgs one = args;
      const Tensor d_up(DType::kF32, problem.branches[1].up.shape());
      one.h[1] = forward.h[1];
      one.d_up[1] = d_up;
      Run(backend, one, context);
      CHECK_IDENTICAL(d_up, all.d_up[1]);
    }
    SUBCASE("d_down") {
      LoraLinearBackwardArgs one = args;
      const Tensor d_down(DType::kF32, problem.branches[0].down.shape());
      one.x = problem.x;
      one.d_down[0] = d_down;
      Run(backend, one, context);
      CHECK_IDENTICAL(d_down, all.d_down[0]);
    }
  }
}

}  // namespace
}  // namespace lora::test
