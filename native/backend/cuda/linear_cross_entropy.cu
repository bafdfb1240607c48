// logits   = scale·hidden·Wᵀ, a chunk of rows at a time, and their losses
// d_hidden = scale·(softmax − onehot)·W from the same logits
// Only rows that count are computed; they are gathered first. Per chunk, W is read once per
// direction, and the f32 logits are written once. In bf16 their product leaves what the losses need
// (gemm_row_sums.cuh), so that the gradient alone reads them; in f32, or scaled, the losses do,
// too, and entropies always. The gradients of the logits are rounded to the dtype of W, which is
// what tensor cores take.
#include <type_traits>

#include "backend/cuda/cross_entropy.h"
#include "backend/cuda/device/linear_cross_entropy.cuh"
#include "backend/cuda/expand.h"
#include "backend/cuda/gemm_plan.h"
#include "backend/cuda/ids.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/linear_cross_entropy_plan.h"
#include "core/maths/ceil_div.h"
#include "core/ops/labels.h"

namespace lora::cuda {
namespace {

constexpr const char* kOp = "linear_cross_entropy";

// Gathers `count` rows into a chunk of `padded` rows.
void Gather(const LinearCrossEntropyArgs& args, const int32_t* rows, int64_t count, int64_t padded,
            std::byte* hidden, int32_t* labels, Context& context) {
  ForFloat(args.hidden.dtype, [&]<class Number>() {
    using T = std::conditional_t<sizeof(Number) == 4, uint32_t, uint16_t>;
    Launch<device::GatherRows<T>>(
        kOp, context, Blocks(padded, 1),
        device::GatherRowsParams<T>{Data<const T>(args.hidden), Data<const int32_t>(args.labels),
                                    rows, count, args.hidden.dim(1), kIgnoredLabel,
                                    reinterpret_cast<T*>(hidden), labels});
  });
}

// How many rows count is in the labels, so that the last chunk's products are planned here.
GemmPlan Product(const GemmProblem& problem, Scratch scratch, Context& context) {
  const GemmPlan plan = PlanGemm(kOp, problem, context.threads());
  Gemm(kOp, problem, plan, scratch, context);
  return plan;
}

void RunPlanned(const LinearCrossEntropyArgs& args, const LinearCrossEntropyPlan& plan,
                Scratch scratch, Context& context) {
  const int64_t counted = CheckLabels(kOp, args.labels, plan.vocab, scratch.data() + plan.check,
                                      static_cast<CudaContext&>(context));
  if (!args.losses) RequireLabels(kOp, counted);
  auto* const row_list = reinterpret_cast<int32_t*>(scratch.data() + plan.row_list);
  auto* const losses = reinterpret_cast<double*>(scratch.data() + plan.losses);
  auto* const labels = reinterpret_cast<int32_t*>(scratch.data() + plan.labels);
  auto* const lse = reinterpret_cast<float*>(scratch.data() + plan.lse);
  std::byte* const hidden = scratch.data() + plan.hidden;
  auto* const d_hidden = reinterpret_cast<float*>(scratch.data() + plan.d_hidden);
  const Scratch product = scratch.subspan(plan.product);
  ScratchArena weights(scratch.subspan(plan.weight));
  Expansions expansions;
  const void* const weight = expansions.Add(args.weight, weights);

  Launch<device::ListRows>(
      kOp, context, {},
      device::ListRowsParams{Data<const int32_t>(args.labels), static_cast<int32_t>(plan.rows),
                             kIgnoredLabel, row_list});
  const auto clear = [&](const TensorView& of_rows, int64_t dim) {
    if (!of_rows || counted == plan.rows) return;
    Launch<device::ClearRows>(kOp, context, Blocks(plan.rows, 1),
                              device::ClearRowsParams{Data<const int32_t>(args.labels),
                                                      kIgnoredLabel, dim, Data<float>(of_rows)});
  };
  clear(args.d_hidden, plan.dim);
  clear(args.losses, 1);
  clear(args.entropies, 1);

  if (counted > 0) expansions.Run(kOp, context);
  int64_t done = 0;
  for (int64_t i = 0; i < plan.ChunksOf(counted); ++i) {
    const int64_t count = plan.RowsOf(counted, i);
    constexpr int64_t kStep = LinearCrossEntropyPlan::kRowStep;
    const int64_t padded = RoundUp(count, kStep);
    Gather(args, row_list + done, count, padded, hidden, labels, context);

    GemmProblem forward = plan.Logits(padded);
    forward.segments[0].a = hidden;
    forward.segments[0].b = weight;
    forward.c = scratch.data() + plan.logits;
    if (plan.with_row_sums())
      forward.row_sums = reinterpret_cast<float*>(scratch.data() + plan.row_sums);
    const GemmPlan gemm = Product(forward, product, context);

    LogitRows rows{forward.c, DType::kF32, count, plan.vocab, plan.pitch, labels};
    if (plan.with_row_sums()) {
      RowLoss(kOp, rows, forward.row_sums, RowSumParts(gemm, forward), losses + done, lse, context);
    } else {
      SoftmaxLoss(kOp, rows, losses + done, lse, false, context);
    }
    RowValues values{losses + done, lse, row_list + done};
    if (args.losses) values.losses_to = Data<float>(args.losses);
    if (args.entropies) values.entropies_to = Data<float>(args.entropies);
    StoreRowValues(kOp, rows, values, context);
    if (plan.gradient) {
      rows.rows = padded;
      LogitGradients to;
      to.scale = args.scale;
      to.dlogits = scratch.data() + plan.gradients;
      to.dtype = plan.dtype;
      to.pitch = plan.pitch;
      SoftmaxGradient(kOp, rows, lse, to, context);

      GemmProblem backward = plan.HiddenGradient(padded);
      backward.segments[0].a = to.dlogits;
      backward.segments[0].b = weight;
      backward.c = d_hidden;
      Product(backward, product, context);
      Launch<device::ScatterRows>(kOp, context, Blocks(count, 1),
                                  device::ScatterRowsParams{d_hidden, row_list + done, plan.dim,
                                                            Data<float>(args.d_hidden)});
    }
    done += count;
  }
  SumLosses(kOp, losses, counted, counted, Data<float>(args.loss), Data<float>(args.count),
            context);
}

}  // namespace

PlannedCall PlanCall(const LinearCrossEntropyArgs& args, int threads) {
  const LinearCrossEntropyPlan plan = PlanLinearCrossEntropy(args, threads);
  return {plan.bytes, [args = args, plan](Scratch scratch, Context& context) {
            RunPlanned(args, plan, scratch, context);
          }};
}

template PlannedCall Plan(const LinearCrossEntropyArgs&, int);
}  // namespace lora::cuda
