#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "backend/cpu/runtime/context.h"
#include "test/support/close.h"
#include "test/support/delta_table.h"
#include "test/support/lora_problem.h"
#include "test/support/simd_targets.h"

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

// Returns rows [first, first + count) of a matrix.
Tensor RowsOf(const Tensor& t, int64_t first, int64_t count) {
  const int64_t columns = t.shape()[1];
  Tensor rows(t.dtype(), {count, columns});
  for (int64_t i = 0; i < count * columns; ++i) rows.Set(i, t.at(first * columns + i));
  return rows;
}

// y of rows [first, first + count) in a call of their own, as one tensor per branch.
std::vector<Tensor> ForwardRows(const LoraLinearProblem& all, int64_t first, int64_t count,
                                const std::vector<FrozenWeight>& weights, Context& context) {
  const Tensor x = RowsOf(all.x, first, count);
  LoraLinearForwardArgs args;
  args.x = x;
  args.phase = all.phase;
  std::vector<Tensor> y;
  for (size_t i = 0; i < all.branches.size(); ++i) {
    const BranchOperands& branch = all.branches[i];
    y.emplace_back(x.dtype(), Shape{count, branch.weight.shape()[0]});
    args.branches.push_back(
        {weights[i].view(), branch.bias, branch.up, branch.down, branch.scale, branch.dropout});
    args.y.push_back(y.back());
    args.h.emplace_back();
  }
  Run(CpuBackend(), args, context);
  return y;
}

// A weight in every format that multiplies activations of a dtype.
std::vector<FrozenWeight> Weights(const LoraLinearProblem& problem, DType stored,
                                  Context& context) {
  std::vector<FrozenWeight> weights;
  for (const BranchOperands& branch : problem.branches) {
    const Shape shape = branch.weight.shape();
    if (stored != DType::kI8) {
      weights.emplace_back(CpuBackend(), branch.weight.As(stored), Tensor(), problem.x.dtype(),
                           context);
      continue;
    }
    Tensor values(DType::kI8, shape), scales(DType::kF32, {shape[0]});
    for (int64_t i = 0; i < shape.numel(); ++i)
      values.Set(i, static_cast<double>(i * 7 % 255) - 127);
    for (int64_t i = 0; i < shape[0]; ++i) scales.Set(i, 0.001 * static_cast<double>(i % 9 + 1));
    weights.emplace_back(CpuBackend(), values, scales, problem.x.dtype(), context);
  }
  return weights;
}

// The panels of the second branch are longer than a block of decode and than a pass of prefill.
TEST_CASE("cpu lora_linear: the bits of a row do not depend on the other rows of its phase") {
  constexpr int64_t kRows = 33;
  const std::pair<DType, DType> formats[] = {{DType::kF32, DType::kF32},
                                             {DType::kBF16, DType::kBF16},
                                             {DType::kF32, DType::kBF16},
                                             {DType::kBF16, DType::kI8},
                                             {DType::kF32, DType::kI8}};
  for (const auto& [act, stored] : formats) {
    LoraLinearProblem problem(CaseOf(act, kRows, 1543, {{70, 5, true}, {20, 20}, {9, 0}}));
    for (const LinearPhase phase : {LinearPhase::kDecode, LinearPhase::kPrefill}) {
      CAPTURE(phase);
      CAPTURE(NameOf(act));
      CAPTURE(NameOf(stored));
      problem.phase = phase;
      ForEachSimdTarget([&] {
        cpu::CpuContext one(1), two(2);
        const std::vector<FrozenWeight> weights = Weights(problem, stored, one);
        std::vector<std::vector<Tensor>> alone;
        for (int64_t row = 0; row < kRows; ++row)
          alone.push_back(ForwardRows(problem, row, 1, weights, one));
        for (int64_t m = 2; m <= kRows; ++m) {
          const int64_t first = 7 * m % (kRows - m + 1);
          const std::vector<Tensor> y =
              ForwardRows(problem, first, m, weights, m % 2 == 0 ? one : two);
          for (int64_t row = 0; row < m; ++row) {
            for (size_t i = 0; i < y.size(); ++i) {
              CAPTURE(m);
              CAPTURE(row);
              CAPTURE(i);
              CHECK_IDENTICAL(RowsOf(y[i], row, 1), alone[static_cast<size_t>(first + row)][i]);
            }
          }
        }
      });
    }
  }
}

// One row is multiplied by four panels, two or one at a time (stream-inl.h), others by one. The
// reduction ends inside a stored element of int8, of f16, and of bf16 under f32.
TEST_CASE("cpu lora_linear: a row that is alone has the bits that it has beside another") {
  const std::pair<DType, DType> formats[] = {
      {DType::kF32, DType::kF32}, {DType::kF32, DType::kBF16},  {DType::kF32, DType::kF16},
      {DType::kF32, DType::kI8},  {DType::kBF16, DType::kBF16}, {DType::kBF16, DType::kI8}};
  // With the smallest, products and sums of f32 and of tile registers are subnormal.
  for (const double magnitude : {1.0, 0x1p-124}) {
    for (const auto& [act, stored] : formats) {
      LoraLinearProblem problem(CaseOf(act, 2, 75, {{450, 0}, {130, 5, true}, {7, 0}}));
      for (int64_t i = 0; i < problem.x.shape().numel(); ++i) {
        problem.x.Set(i, magnitude * problem.x.at(i));
      }
      problem.phase = LinearPhase::kDecode;
      CAPTURE(magnitude);
      CAPTURE(NameOf(act));
      CAPTURE(NameOf(stored));
      ForEachSimdTarget([&] {
        cpu::CpuContext one(1), two(2);
        const std::vector<FrozenWeight> weights = Weights(problem, stored, one);
        const std::vector<Tensor> both = ForwardRows(problem, 0, 2, weights, one);
        for (int64_t row = 0; row < 2; ++row) {
          for (Context* context : {&one, &two}) {
            const std::vector<Tensor> y = ForwardRows(problem, row, 1, weights, *context);
            for (size_t i = 0; i < y.size(); ++i) {
              CAPTURE(row);
              CAPTURE(i);
              CHECK_IDENTICAL(y[i], RowsOf(both[i], row, 1));
            }
          }
        }
      });
    }
  }
}

TEST_CASE("cpu lora_linear: a row has the bits with a table that it has with its adapter alone") {
  constexpr int64_t kRows = 33;
  std::vector<int32_t> mixed, one_slot(kRows, 1);
  for (int32_t i = 0; i < kRows; ++i) mixed.push_back(i * i / 3 % 4 - 1);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const LinearPhase phase : {LinearPhase::kDecode, LinearPhase::kPrefill}) {
      CAPTURE(phase);
      CAPTURE(NameOf(dtype));
      const TableProblem problem(CaseOf(dtype, kRows, 590, {{70, 0, true}, {20, 0}}), phase);
      ForEachSimdTarget([&] {
        cpu::CpuContext one(1), two(2);
        const std::vector<FrozenWeight> weights = Weights(problem.Base(), dtype, one);
        for (const std::vector<int32_t>& slots : {mixed, one_slot}) {
          const std::vector<Tensor> y = problem.Forward(CpuBackend(), two, slots);
          for (int64_t row = 0; row < kRows; ++row) {
            const int32_t slot = slots[static_cast<size_t>(row)];
            const std::vector<Tensor> alone =
                ForwardRows(slot < 0 ? problem.Base() : problem.slot(slot), row, 1, weights, one);
            for (size_t i = 0; i < y.size(); ++i) {
              CAPTURE(row);
              CAPTURE(i);
              CHECK_IDENTICAL(RowsOf(y[i], row, 1), alone[i]);
            }
          }
        }
      });
    }
  }
}

TEST_CASE("cpu lora_linear: a row has the bits with a table of bf16 that it has alone") {
  constexpr int64_t kRows = 33;
  std::vector<int32_t> mixed, one_slot(kRows, 1);
  for (int32_t i = 0; i < kRows; ++i) mixed.push_back(i * i / 3 % 4 - 1);
  // An odd k has a pair that is half a pad; the other one is longer than a vector of pairs.
  for (const int64_t k : {59, 590}) {
    CAPTURE(k);
    const TableProblem problem(CaseOf(DType::kBF16, kRows, k, {{70, 0, true}, {20, 0}}),
                               LinearPhase::kDecode, DType::kBF16);
    ForEachSimdTarget([&] {
      cpu::CpuContext one(1), two(2);
      for (const std::vector<int32_t>& slots : {mixed, one_slot}) {
        const std::vector<Tensor> y = problem.Forward(CpuBackend(), two, slots);
        for (int64_t row = 0; row < kRows; ++row) {
          const std::vector<Tensor> alone =
              problem.Forward(CpuBackend(), one, {slots[static_cast<size_t>(row)]},
                              RowsOf(problem.slot(0).x, row, 1));
          for (size_t i = 0; i < y.size(); ++i) {
            CAPTURE(row);
            CAPTURE(i);
            CHECK_IDENTICAL(RowsOf(y[i], row, 1), alone[i]);
          }
        }
      }
    });
  }
}

}  // namespace
}  // namespace lora::test
