// Holds lora_linear against the reference where the quantized weights of a call take turns in one
// place. LORA_CUDA_EXPANSION_BYTES, which ctest sets, makes small ones do so.
#include <doctest/doctest.h>

#include <vector>

#include "test/support/close.h"
#include "test/support/kept_matrix.h"
#include "test/support/lora_problem.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

using Formats = std::vector<WeightFormat>;

// A problem whose weights are stored in the formats, or plainly in the dtype of the activations.
class ExpansionsProblem {
 public:
  ExpansionsProblem(const LoraLinearCase& c, const Formats& formats)
      : problem_(c), formats_(formats) {
    for (size_t i = 0; i < formats.size(); ++i) {
      if (!IsQuantized(formats[i])) continue;
      matrices_.emplace_back(Kept{formats[i], c.dtype}, c.branches[i].n, c.k, 20 + i);
      problem_.branches[i].weight = matrices_.back().values;
    }
  }

  const LoraLinearProblem& problem() const { return problem_; }

  // All outputs, and the scratch of the two calls.
  struct Ran {
    LoraLinearOutputs out;
    size_t forward_scratch, backward_scratch;
  };
  Ran Run(bool quantized, const std::vector<Tensor>& h, MirrorContext& context) const {
    std::vector<FrozenWeight> weights;
    LoraLinearForwardArgs forward;
    LoraLinearBackwardArgs backward;
    Ran ran;
    LoraLinearOutputs& out = ran.out;
    const DType dtype = problem_.x.dtype();
    forward.x = backward.x = problem_.x;
    for (size_t i = 0, packed = 0; i < problem_.branches.size(); ++i) {
      const BranchOperands& from = problem_.branches[i];
      const bool packs = IsQuantized(formats_[i]);
      if (packs && quantized) {
        weights.emplace_back(MirroredCuda(), matrices_[packed].args, dtype, context);
      } else {
        weights.emplace_back(MirroredCuda(), from.weight, context);
      }
      if (packs) ++packed;
      LoraBranch branch{weights[i].view(), from.bias, from.up, from.down, from.scale, from.dropout};
      backward.branches.push_back(branch);
      branch.factor = from.factor;
      forward.branches.push_back(branch);
      const auto like = [](const Tensor& t) {
        return t ? Tensor(DType::kF32, t.shape()) : Tensor();
      };
      out.y.emplace_back(dtype, Shape{problem_.x.shape()[0], from.weight.shape()[0]});
      out.h.push_back(like(h[i]));
      out.d_up.push_back(like(from.up));
      out.d_down.push_back(like(from.down));
      forward.y.push_back(out.y[i]);
      forward.h.push_back(out.h[i]);
      backward.g.push_back(problem_.g[i]);
      backward.h.push_back(h[i]);
      backward.d_up.push_back(out.d_up[i]);
      backward.d_down.push_back(out.d_down[i]);
    }
    out.dx = Tensor(dtype, problem_.x.shape());
    backward.dx = out.dx;
    test::Run(MirroredCuda(), forward, context);
    test::Run(MirroredCuda(), backward, context);
    const Backend& backend = *CudaBackend();
    const int threads = context.threads();
    ran.forward_scratch = backend.op<LoraLinearForwardArgs>().plan(forward, threads).scratch_bytes;
    ran.backward_scratch =
        backend.op<LoraLinearBackwardArgs>().plan(backward, threads).scratch_bytes;
    return ran;
  }

 private:
  LoraLinearProblem problem_;
  Formats formats_;
  std::vector<KeptMatrix> matrices_;  // of the quantized ones
};

TEST_CASE("cuda lora_linear: weights that are expanded in turn agree with the reference") {
  constexpr auto kNF4 = WeightFormat::kNF4, kFP4 = WeightFormat::kFP4, kI8 = WeightFormat::kI8Rows;
  constexpr auto kBF16 = WeightFormat::kBF16, kQ4_K = WeightFormat::kQ4_K;
  const struct {
    LoraLinearCase shape;
    Formats formats;
    int64_t forward, backward;  // values that have a place in scratch
    bool in_turn = true;        // in the backward pass
  } cases[] = {
      // With one whose codes the product of y multiplies.
      {CaseOf(DType::kBF16, 70, 256, {{80, 5, true, 0.25f}, {96, 0}, {33, 3, true}, {20, 2}}),
       {kI8, kQ4_K, kI8, kNF4},
       256 * 96,
       256 * 96},
      // A product multiplies codes of one table.
      {CaseOf(DType::kBF16, 70, 128, {{40, 3}, {200, 0}, {100, 2}}),
       {kNF4, kFP4, kFP4},
       128 * 200,
       128 * 200},
      // One that is read as it is stored, between two; without an adapter.
      {CaseOf(DType::kBF16, 130, 128, {{192, 0}, {20, 0}, {160, 0, true}}),
       {kI8, kBF16, kI8},
       128 * 192,
       128 * 192},
      {CaseOf(DType::kF32, 20, 64, {{130, 4, true}, {100, 2, false, 0.5f}}),
       {kNF4, kI8},
       64 * 130,
       64 * 130},
      // Few rows, which share a launch.
      {CaseOf(DType::kF32, 5, 64, {{130, 4, true}, {100, 2}}), {kNF4, kI8}, 64 * 230, 64 * 130},
      // Products that would be split, were each of them planned alone.
      {CaseOf(DType::kBF16, 65, 2048, {{60, 0}, {60, 0}, {60, 0}}),
       {kI8, kI8, kI8},
       2048 * 60,
       2048 * 60},
      // One has no other to share with.
      {CaseOf(DType::kBF16, 70, 256, {{200, 3}}), {kI8}, 256 * 200, 256 * 200, false},
  };
  int turn = 0;
  for (const auto& c : cases) {
    const std::string name = c.shape.Name();
    CAPTURE(name);
    const ExpansionsProblem tested(c.shape, c.formats);
    const LoraLinearProblem& problem = tested.problem();
    const LoraLinearOutputs expected = problem.Expected();
    const LoraLinearBounds bounds =
        problem.Bounds(expected, Precision::OnTensorCores(c.shape.dtype));
    const std::vector<Tensor> h = InF32(expected.h);
    for (int repeat = 0; repeat < 3; ++repeat) {
      MirrorContext context = NthContext(turn++ % 9);
      const auto [got, forward_scratch, backward_scratch] = tested.Run(true, h, context);
      const auto [plain, plain_forward, plain_backward] = tested.Run(false, h, context);
      CHECK_CLOSE(got.dx, expected.dx, bounds.dx);
      for (size_t i = 0; i < expected.y.size(); ++i) {
        CAPTURE(i);
        CHECK_CLOSE(got.y[i], expected.y[i], bounds.y[i]);
        CHECK_IDENTICAL(got.y[i], plain.y[i]);
        if (!expected.h[i]) continue;
        CHECK_IDENTICAL(got.h[i], plain.h[i]);
        CHECK_IDENTICAL(got.d_up[i], plain.d_up[i]);
        CHECK_IDENTICAL(got.d_down[i], plain.d_down[i]);
      }
      const size_t size = SizeOf(c.shape.dtype);
      const auto forward = static_cast<size_t>(c.forward) * size;
      auto backward = static_cast<size_t>(c.backward) * size;
      if (c.in_turn && size == 2)  // and the sum of dx
        backward += static_cast<size_t>(problem.x.numel()) * sizeof(float);
      CHECK(forward_scratch - plain_forward >= forward);
      CHECK(forward_scratch - plain_forward < forward + 1024);
      CHECK(backward_scratch >= backward);
      CHECK(backward_scratch < plain_backward + backward + 1024);
    }
  }
}

}  // namespace
}  // namespace lora::test
