// Holds linear_cross_entropy against the reference where a quantized weight is expanded in slices.
// LORA_CUDA_LOSS_BYTES, which ctest sets, makes slices of small matrices.
#include <utility>
#include <vector>

#include "backend/cuda/linear_cross_entropy_plan.h"
#include "test/support/kept_matrix.h"
#include "test/support/linear_cross_entropy_cases.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

struct SlicesCase {
  Kept kept;
  int64_t rows, dim, vocab;
  float scale = 1, cap = 0;
};

TEST_CASE("cuda linear_cross_entropy: slices of a quantized weight agree with the reference") {
  // A slice has rows · dim · 2 or 4 bytes ≤ 24 KiB, in multiples of 64 rows: 64 to 192 of these.
  for (const SlicesCase& c : {SlicesCase{{WeightFormat::kNF4, DType::kBF16}, 70, 64, 500},
                              SlicesCase{{WeightFormat::kNF4, DType::kF32}, 5, 33, 384},
                              SlicesCase{{WeightFormat::kFP4, DType::kBF16}, 3, 70, 200, 0.5f, 3},
                              SlicesCase{{WeightFormat::kI8Rows, DType::kBF16}, 9, 66, 321},
                              SlicesCase{{WeightFormat::kQ4_K, DType::kBF16}, 9, 256, 130},
                              SlicesCase{{WeightFormat::kIQ2_S, DType::kF32}, 2, 256, 65}}) {
    CAPTURE(NameOf(c.kept.format));
    CAPTURE(c.vocab);
    const KeptMatrix matrix(c.kept, c.vocab, c.dim, 3);
    LinearCrossEntropyProblem p(c.kept.activations, c.rows, c.dim, c.vocab, c.scale, c.cap);
    p.weight = matrix.values;
    p.labels.Set(1, -100);
    const bool halves = c.kept.activations == DType::kBF16;
    const LinearCrossEntropyExpected expected(p, halves);
    OnPathsInTurn(
        [&](Context& context) {
          const FrozenWeight weight(Tested().backend, matrix.args, c.kept.activations, context);
          LinearCrossEntropyOutputs out(p);
          const LinearCrossEntropyArgs args = ArgsOf(p, weight, out);
          const auto plan = cuda::PlanLinearCrossEntropy(args, context.threads());
          REQUIRE(plan.slice < c.vocab);
          CHECK(plan.slice % kBlockValues == 0);
          RunTested(args, context);
          std::vector<Tensor> list;
          for (Tensor* tensor : {&out.loss, &out.count, &out.d_hidden, &out.losses, &out.entropies})
            list.push_back(std::move(*tensor));
          return list;
        },
        [&](const std::vector<Tensor>& out) {
          CHECK_CLOSE(out[0], expected.out.loss, Tolerance{expected.loss_bound});
          CHECK(out[1].at(0) == expected.out.count.at(0));
          CHECK_CLOSE(out[2], expected.out.d_hidden, expected.d_hidden_bounds);
          CHECK_CLOSE(out[3], expected.out.losses, expected.losses_bounds);
          CHECK_CLOSE(out[4], expected.out.entropies, expected.entropies_bounds);
        });
  }
}

TEST_CASE("cuda linear_cross_entropy: the bound of bytes holds for the slice and the chunk") {
  LinearCrossEntropyArgs args;
  args.hidden = TensorView(nullptr, DType::kBF16, {512, 64});
  args.d_hidden = TensorView(nullptr, DType::kF32, {512, 64});
  for (const WeightFormat format : {WeightFormat::kNF4, WeightFormat::kBF16}) {
    args.weight = PackedView(nullptr, DType::kBF16, 1000, 64, format);
    const auto plan = cuda::PlanLinearCrossEntropy(args, 4);
    CHECK(plan.chunk == cuda::LinearCrossEntropyPlan::kMinChunk);
    CHECK(plan.slice == (format == WeightFormat::kNF4 ? 192 : 1000));
  }
  // A row that is larger than the bound still makes a slice.
  args.weight = PackedView(nullptr, DType::kBF16, 100, 1 << 15, WeightFormat::kNF4);
  CHECK(cuda::PlanLinearCrossEntropy(args, 4).slice == 64);
}

}  // namespace
}  // namespace lora::test
