// Tests what of lora_linear only the CUDA backend has: splits of k, launches that overlap, f16.
#include <doctest/doctest.h>

#include <vector>

#include "backend/cuda/gemm_plan.h"
#include "test/support/close.h"
#include "test/support/kept_matrix.h"
#include "test/support/lora_problem.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

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
        const LoraLinearCase c = CaseOf(dtype, 20, in, {{out, rank, true, 0, true}});
        const std::string name = c.Name();
        CAPTURE(name);
        CHECK(split(dtype, 20, out, in, true) == (in > out));
        CHECK(split(dtype, 20, in, out, false) == (out > in));
        const LoraLinearProblem problem(c);
        const LoraLinearOutputs expected = problem.Expected();
        MirrorContext context = NthContext(turn++ % 9);
        CheckOutputs(problem.Forward(MirroredCuda(), context),
                     problem.Backward(MirroredCuda(), context, InF32(expected.h)), expected,
                     problem.Bounds(expected, Precision::OnTensorCores(dtype)));
      }
    }
  }
  simt::SetEmulatedProperties({4, 80, 163 * 1024});
}

// The launch that finishes h casts eight factors; the others are cast before it.
TEST_CASE("cuda lora_linear: more factors than one launch casts") {
  int turn = 0;
  for (const int64_t m : {20, 4}) {
    CAPTURE(m);
    LoraLinearProblem problem(
        CaseOf(DType::kBF16, m, 33, std::vector<BranchCase>(10, {9, 4, true, 0, true})));
    problem.phase = LinearPhase::kPrefill;
    const LoraLinearOutputs expected = problem.Expected();
    MirrorContext context = NthContext(turn++);
    const LoraLinearOutputs forward = problem.Forward(MirroredCuda(), context);
    CheckOutputs(forward, problem.Backward(MirroredCuda(), context, InF32(expected.h)), expected,
                 problem.Bounds(expected, Precision::OnTensorCores(DType::kBF16)));
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

// Where the weight is expanded, scratch has its values.
TEST_CASE(
    "cuda lora_linear expands formats with scales for more than 512 rows, for f32, and for rows "
    "that "
    "are no whole blocks") {
  constexpr int64_t kOut = 40;
  struct Case {
    DType dtype;
    int64_t m, in;
    bool expands;
  };
  int turn = 0;
  for (const auto& [dtype, m, in, expands] : {Case{DType::kBF16, 16, 352, false},
                                              {DType::kBF16, 17, 352, false},
                                              {DType::kBF16, 64, 352, false},
                                              {DType::kBF16, 65, 352, true},
                                              {DType::kBF16, 65, 384, false},
                                              {DType::kBF16, 512, 1024, false},
                                              {DType::kBF16, 513, 1024, true},
                                              {DType::kF32, 65, 384, true},
                                              {DType::kBF16, 1, 172, true},
                                              {DType::kF32, 16, 352, true}}) {
    CAPTURE(NameOf(dtype));
    CAPTURE(m);
    LoraLinearProblem problem(CaseOf(dtype, m, in, {{kOut, 5, true}}));
    const KeptMatrix w({WeightFormat::kNF4, dtype}, kOut, in, 3);
    problem.branches[0].weight = w.values;
    const LoraLinearOutputs expected = problem.Expected();
    MirrorContext context = NthContext(turn++ % 9);
    const FrozenWeight weight(MirroredCuda(), w.args, dtype, context);
    const BranchOperands& b = problem.branches[0];
    const Tensor y(dtype, {m, kOut}), h(DType::kF32, {m, 5});
    const LoraLinearForwardArgs args{
        problem.x, {{weight.view(), b.bias, b.up, b.down, b.scale, {}}}, {y}, {h}};
    Run(MirroredCuda(), args, context);
    const LoraLinearBounds bounds = problem.Bounds(expected, Precision::OnTensorCores(dtype));
    CHECK_CLOSE(y, expected.y[0], bounds.y[0]);
    CHECK_CLOSE(h, expected.h[0], bounds.h[0]);
    const size_t scratch =
        CudaBackend()->op<LoraLinearForwardArgs>().plan(args, context.threads()).scratch_bytes;
    CHECK((scratch >= static_cast<size_t>(in * kOut) * SizeOf(dtype)) == expands);
  }
}

TEST_CASE("cuda lora_linear in f16") {
  int turn = 0;
  for (const int64_t m : {7, 37}) {
    const LoraLinearProblem problem =
        LoraLinearProblem(
            CaseOf(DType::kBF16, m, 70, {{40, 5, true, 0.25f, true}, {33, 0}, {20, 16}}))
            .As(DType::kF16);
    const LoraLinearOutputs expected = problem.Expected();
    const LoraLinearBounds bounds = problem.Bounds(expected, Precision::OnTensorCores(DType::kF16));
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
      backward.branches.push_back(branch);
      branch.factor = from.factor;
      forward.branches.push_back(branch);
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
    MirrorContext context = NthContext(turn++, Addresses::kOdd);
    Run(MirroredCuda(), forward, context);
    RunUnchecked(MirroredCuda().op<LoraLinearBackwardArgs>(), backward, context);
    CheckOutputs(out, out, expected, bounds);
  }
}

}  // namespace
}  // namespace lora::test
