// The fused linear layer of the GPU against the reference.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "backend/cuda/gemm_plan.h"
#include "test/support/cases.h"
#include "test/support/close.h"
#include "test/support/cuda_paths.h"
#include "test/support/lora_problem.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

// 16-bit factors of the low-rank path are rounded once each.
Precision PrecisionOf(DType dtype) {
  return {UnitRoundoff(DType::kF32), dtype == DType::kF32 ? 0 : 2 * UnitRoundoff(dtype)};
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

// The table of every backend, and what only a GPU has edges at: the limit of decoding (16 rows),
// tiles of 64 and 128, k-blocks of 32, rows at odd addresses.
std::vector<LoraLinearCase> Cases() {
  std::vector<LoraLinearCase> cases = LoraLinearCases();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (LoraLinearCase& c : std::vector<LoraLinearCase>{
             CaseOf(dtype, 16, 33, {{31, 3, true, 0.2f}}),
             CaseOf(dtype, 17, 33, {{31, 3, true, 0.2f}}),
             CaseOf(dtype, 65, 47, {{129, 64, false, 0.5f}}),
             CaseOf(dtype, 33, 30, {{66, 1}, {65, 17, true}, {0, 2}, {8, 0, true}, {3, 5}}),
         })
      cases.push_back(c);
  }
  return cases;
}

TEST_CASE("cuda lora_linear agrees with the reference") {
  int turn = 0;
  for (const LoraLinearCase& c : Cases()) {
    const std::string name = c.Name();
    CAPTURE(name);
    const LoraLinearProblem problem(c);
    const LoraLinearOutputs expected = problem.Expected();
    const LoraLinearBounds bounds = problem.Bounds(expected, PrecisionOf(c.dtype));
    MirrorContext context = NthContext(turn % 9, turn % 2);
    ++turn;
    const LoraLinearOutputs forward = problem.Forward(MirroredCuda(), context);
    const LoraLinearOutputs backward = problem.Backward(MirroredCuda(), context, InF32(expected.h));
    CheckOutputs(forward, backward, expected, bounds);
  }
}

// With many multiprocessors and few tiles, k of y, and of dx, is split: the slabs lie in scratch.
TEST_CASE("cuda lora_linear: products that split k have the scratch that they need") {
  constexpr int kMultiprocessors = 16;
  const auto split = [](DType dtype, int64_t m, int64_t n, int64_t k, bool trans_b) {
    cuda::GemmProblem p;
    p.m = m;
    p.n = n;
    p.a_dtype = p.b_dtype = p.c_dtype = dtype;
    p.trans_b = trans_b;
    p.segments = {{nullptr, nullptr, k, k, trans_b ? k : n, {}, false}};
    return cuda::PlanGemm("gemm", p, kMultiprocessors).scratch_bytes > 0;
  };
  simt::SetEmulatedProperties({kMultiprocessors, 80, 163 * 1024});
  int turn = 0;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t rank : {0, 4}) {
      // y: 1100 inputs; dx: as many outputs.
      for (const auto& [in, out] : {std::pair<int64_t, int64_t>{1100, 33}, {33, 1100}}) {
        const LoraLinearCase c = CaseOf(dtype, 20, in, {{out, rank, true}});
        const std::string name = c.Name();
        CAPTURE(name);
        CHECK(split(dtype, 20, out, in, true) == (in > out));
        CHECK(split(dtype, 20, in, out, false) == (out > in));
        const LoraLinearProblem problem(c);
        const LoraLinearOutputs expected = problem.Expected();
        MirrorContext context = NthContext(turn++ % 9);
        CheckOutputs(problem.Forward(MirroredCuda(), context),
                     problem.Backward(MirroredCuda(), context, InF32(expected.h)), expected,
                     problem.Bounds(expected, PrecisionOf(dtype)));
      }
    }
  }
  simt::SetEmulatedProperties({4, 80, 163 * 1024});
}

TEST_CASE("cuda lora_linear: every schedule gives the same bits") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const LoraLinearCase& c :
         {CaseOf(dtype, 3, 130, {{29, 5, true}, {64, 0}, {7, 16}}),
          CaseOf(dtype, 37, 300, {{70, 16, false, 0.25f}, {65, 3, true}})}) {
      const std::string name = c.Name();
      CAPTURE(name);
      const LoraLinearProblem problem(c);
      MirrorContext first = NthContext(0);
      const LoraLinearOutputs forward = problem.Forward(MirroredCuda(), first);
      const LoraLinearOutputs backward = problem.Backward(MirroredCuda(), first, forward.h);
      for (int i = 1; i < 9; i += 3) {
        CAPTURE(i);
        MirrorContext context = NthContext(i);
        CheckSame(problem.Forward(MirroredCuda(), context), forward);
        CheckSameGradients(problem.Backward(MirroredCuda(), context, forward.h), backward);
      }
    }
  }
}

TEST_CASE("cuda lora_linear is exact on small whole numbers") {
  int turn = 0;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    // Every y and dx stays below 2⁸ where it is rounded to bf16, and h below 2⁷.
    for (const LoraLinearCase& c :
         {CaseOf(dtype, 2, 5, {{3, 1}}), CaseOf(dtype, 7, 7, {{9, 2, true}, {3, 0}}),
          CaseOf(dtype, 18, 6, {{5, 1, true}}), CaseOf(dtype, 65, 3, {{2, 1}})}) {
      const std::string name = c.Name();
      CAPTURE(name);
      const LoraLinearProblem problem(c, 7, LoraLinearProblem::Values::kWhole);
      const LoraLinearOutputs expected = problem.Expected();
      for (const int64_t skew : {0, 1}) {
        MirrorContext context = NthContext(turn++ % 9, skew);
        const LoraLinearOutputs forward = problem.Forward(MirroredCuda(), context);
        const LoraLinearOutputs backward =
            problem.Backward(MirroredCuda(), context, InF32(expected.h));
        for (size_t i = 0; i < forward.y.size(); ++i) {
          // Rounding to the output's dtype is all that may happen.
          CHECK_IDENTICAL(forward.y[i], expected.y[i].As(dtype));
          if (!expected.h[i]) continue;
          CHECK_IDENTICAL(forward.h[i], expected.h[i].As(DType::kF32));
          CHECK_IDENTICAL(backward.d_up[i], expected.d_up[i].As(DType::kF32));
          CHECK_IDENTICAL(backward.d_down[i], expected.d_down[i].As(DType::kF32));
        }
        CHECK_IDENTICAL(backward.dx, expected.dx.As(dtype));
      }
    }
  }
}

TEST_CASE("cuda lora_linear: y does not depend on whether h is kept") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t m : {1, 16, 17, 70}) {
      CAPTURE(m);
      MirrorContext context = NthContext(static_cast<int>(m % 9));
      const LoraLinearProblem problem(CaseOf(dtype, m, 90, {{70, 5}, {30, 20, true}}));
      const LoraLinearOutputs with = problem.Forward(MirroredCuda(), context, true);
      const LoraLinearOutputs without = problem.Forward(MirroredCuda(), context, false);
      for (size_t i = 0; i < with.y.size(); ++i) CHECK_IDENTICAL(with.y[i], without.y[i]);
    }
  }
}

// Which gradients are wanted may decide how sums are split and so change the last bits; the
// results stay within the bounds.
TEST_CASE("cuda lora_linear: each gradient alone") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const LoraLinearProblem problem(
        CaseOf(dtype, 20, 90, {{70, 5, false, 0.1f}, {33, 20}, {9, 0}}));
    const LoraLinearOutputs expected = problem.Expected();
    const LoraLinearBounds bounds = problem.Bounds(expected, PrecisionOf(dtype));
    const std::vector<Tensor> h = InF32(expected.h);
    MirrorContext context = NthContext(4, 1);
    std::vector<FrozenWeight> weights;
    LoraLinearBackwardArgs args;
    for (size_t i = 0; i < problem.branches.size(); ++i) {
      const BranchOperands& branch = problem.branches[i];
      weights.emplace_back(MirroredCuda(), branch.weight, context);
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
      Run(MirroredCuda(), one, context);
      CHECK_CLOSE(dx, expected.dx, bounds.dx);
    }
    SUBCASE("d_up") {
      LoraLinearBackwardArgs one = args;
      const Tensor d_up(DType::kF32, problem.branches[1].up.shape());
      one.h[1] = h[1];
      one.d_up[1] = d_up;
      Run(MirroredCuda(), one, context);
      CHECK_CLOSE(d_up, expected.d_up[1], bounds.d_up[1]);
    }
    SUBCASE("d_down") {
      LoraLinearBackwardArgs one = args;
      const Tensor d_down(DType::kF32, problem.branches[0].down.shape());
      one.x = problem.x;
      one.d_down[0] = d_down;
      Run(MirroredCuda(), one, context);
      CHECK_CLOSE(d_down, expected.d_down[0], bounds.d_down[0]);
    }
  }
}

TEST_CASE("cuda lora_linear: NaN in one row stays in that row") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t m : {9, 21}) {
      MirrorContext context = NthContext(0);
      LoraLinearProblem problem(CaseOf(dtype, m, 40, {{30, 4}}));
      const LoraLinearOutputs clean = problem.Forward(MirroredCuda(), context);
      problem.x.Set(5 * 40 + 39, std::numeric_limits<double>::quiet_NaN());
      const LoraLinearOutputs dirty = problem.Forward(MirroredCuda(), context);
      for (int64_t i = 0; i < m * 30; ++i) {
        const bool poisoned = i / 30 == 5;
        REQUIRE(std::isnan(dirty.y[0].at(i)) == poisoned);
        if (!poisoned) REQUIRE(dirty.y[0].at(i) == clean.y[0].at(i));
      }
    }
  }
}

// Other tests upload operands, which no launch overtakes.
TEST_CASE("cuda lora_linear starts when the launch before it has made x, and g") {
  constexpr int64_t kSize = 40;
  int turn = 0;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t m : {1, 40}) {
      for (const int64_t rank : {0, 4}) {
        CAPTURE(NameOf(dtype));
        CAPTURE(m);
        CAPTURE(rank);
        MirrorContext context = NthContext(turn++ % 9);
        cuda::Gpu& gpu = context.device.gpu();
        const Backend& backend = *CudaBackend();
        std::vector<void*> blocks;
        const auto on_device = [&](const Tensor& t) {
          TensorView view = t;
          view.data = blocks.emplace_back(gpu.Allocate(view.bytes()));
          gpu.Upload(view.data, t.view().data, view.bytes());
          return view;
        };
        Tensor twice = Zeros(dtype, {kSize, kSize});
        for (int64_t i = 0; i < kSize; ++i) twice.Set(i * kSize + i, 2);
        const TensorView w = on_device(twice);
        LoraLinearForwardArgs forward;
        LoraLinearBackwardArgs backward;
        LoraBranch& branch = forward.branches.emplace_back();
        branch.weight = {w.data, dtype, kSize, kSize};
        if (rank > 0) {
          branch.up = on_device(Full(DType::kF32, {kSize, rank}, 1));
          branch.down = on_device(Zeros(DType::kF32, {rank, kSize}));
        }
        backward.branches = forward.branches;
        forward.h = backward.h = backward.d_up = backward.d_down = {TensorView()};
        const auto run = [&]<class Args>(const Args& args) {
          const Op<Args>& op = backend.op<Args>();
          const PlannedCall call = op.plan(args, context.threads());
          const size_t bytes = call.scratch_bytes;
          void* const scratch = bytes > 0 ? blocks.emplace_back(gpu.Allocate(bytes)) : nullptr;
          call.run(Scratch(static_cast<std::byte*>(scratch), bytes), context.device);
        };
        const Tensor x = Integers(dtype, {m, kSize}, 3);
        TensorView value = on_device(x);
        for (int layer = 0; layer < 2; ++layer) {
          forward.x = value;
          forward.y = {value = on_device(Zeros(dtype, {m, kSize}))};
          run(forward);
        }
        for (int layer = 0; layer < 2; ++layer) {
          backward.g = {value};
          backward.dx = value = on_device(Zeros(dtype, {m, kSize}));
          run(backward);
        }
        Tensor result(dtype, {m, kSize});
        gpu.Download(result.view().data, value.data, value.bytes());
        for (int64_t i = 0; i < x.numel(); ++i) CHECK(result.at(i) == 16 * x.at(i));
        for (void* block : blocks) gpu.Free(block);
      }
    }
  }
}

TEST_CASE("cuda lora_linear in f16") {
  int turn = 0;
  for (const int64_t m : {7, 37}) {
    const LoraLinearProblem problem =
        LoraLinearProblem(CaseOf(DType::kBF16, m, 70, {{40, 5, true, 0.25f}, {33, 0}, {20, 16}}))
            .As(DType::kF16);
    const LoraLinearOutputs expected = problem.Expected();
    const LoraLinearBounds bounds = problem.Bounds(expected, PrecisionOf(DType::kF16));
    const std::vector<Tensor> h = InF32(expected.h);
    LoraLinearForwardArgs forward;
    LoraLinearBackwardArgs backward;
    LoraLinearOutputs out;
    forward.x = backward.x = problem.x;
    for (size_t i = 0; i < problem.branches.size(); ++i) {
      const BranchOperands& from = problem.branches[i];
      const TensorView& w = from.weight.view();
      LoraBranch branch{{w.data, w.dtype, w.dim(0), w.dim(1)},
                        from.bias,
                        from.up,
                        from.down,
                        from.scale,
                        from.dropout};
      forward.branches.push_back(branch);
      backward.branches.push_back(branch);
      out.y.emplace_back(DType::kF16, Shape{m, w.dim(0)});
      const auto like = [](const Tensor& t) {
        return t ? Tensor(DType::kF32, t.shape()) : Tensor();
      };
      out.h.push_back(like(h[i]));
      out.d_up.push_back(like(from.up));
      out.d_down.push_back(like(from.down));
      forward.y.push_back(out.y[i]);
      forward.h.push_back(out.h[i]);
      backward.g.push_back(problem.g[i]);
      backward.h.push_back(h[i]);
      backward.d_up.push_back(out.d_up[i]);
      backward.d_down.push_back(out.d_down[i]);
    }
    out.dx = Tensor(DType::kF16, problem.x.shape());
    backward.dx = out.dx;
    MirrorContext context = NthContext(turn++, 1);
    Run(MirroredCuda(), forward, context);
    RunUnchecked(MirroredCuda().op<LoraLinearBackwardArgs>(), backward, context);
    CheckOutputs(out, out, expected, bounds);
  }
}

// The bounds must be able to tell a wrong kernel: see the CPU's test.
TEST_CASE("cuda lora_linear: the bounds reject wrong results") {
  const LoraLinearProblem problem(CaseOf(DType::kBF16, 20, 512, {{40, 8}}));
  const LoraLinearOutputs expected = problem.Expected();
  const LoraLinearBounds bounds = problem.Bounds(expected, PrecisionOf(DType::kBF16));
  MirrorContext context = NthContext(0);
  const auto rejected = [&](const LoraLinearProblem& mutant) {
    const LoraLinearOutputs wrong = mutant.Forward(MirroredCuda(), context);
    return !Close(wrong.y[0], expected.y[0], bounds.y[0]).ok;
  };
  CHECK_FALSE(rejected(problem));
  LoraLinearProblem last_k = problem;
  for (int64_t i = 0; i < 20; ++i) last_k.x.Set(i * 512 + 511, 0);
  CHECK(rejected(last_k));
  LoraLinearProblem scale = problem;
  scale.branches[0].scale *= 1.02f;
  CHECK(rejected(scale));
  LoraLinearProblem rank = problem;
  for (int64_t i = 0; i < 40; ++i) rank.branches[0].up.Set(i * 8 + 7, 0);
  CHECK(rejected(rank));
}

}  // namespace
}  // namespace lora::test
