// logits   = scale·hidden·Wᵀ, or scale·cap·tanh(hidden·Wᵀ/cap), a chunk of rows at a time, and
//            their losses
// d_hidden = scale·(softmax − onehot)·W from the same logits, times the slopes of a cap
// Only rows that count are computed; they are gathered first. Per chunk, W is read once per
// direction, and the f32 logits are written once. In bf16 their product leaves what the losses need
// (gemm_row_sums.cuh), so that the gradient alone reads them; in f32, scaled or capped, the losses
// do, too, and entropies always. The gradients of the logits are rounded to the dtype of W, which
// is what tensor cores take.
#include <algorithm>
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

// W as the products of a chunk read it: at once, or, where all of its values would take too much
// scratch, in slices that are expanded for each product.
class WeightSlices {
 public:
  WeightSlices(const PackedView& w, const LinearCrossEntropyPlan& plan, std::byte* scratch)
      : w_(w), slice_(plan.slice), expanded_(IsQuantized(w.format) ? scratch : nullptr) {}

  // Expands what is one slice, for all products.
  void ExpandAll(Context& context) const {
    if (expanded_ != nullptr && slice_ >= w_.rows) Expand(kOp, w_, expanded_, context);
  }
  // Calls product(first, n, values) for the rows from first on of each slice.
  template <class F>
  void ForEach(Context& context, const F& product) const {
    if (slice_ >= w_.rows) return product(0, w_.rows, expanded_ != nullptr ? expanded_ : w_.data);
    for (int64_t first = 0; first < w_.rows; first += slice_) {
      const int64_t n = std::min(slice_, w_.rows - first);
      ExpandRange(kOp, w_, first, n, expanded_, context);
      product(first, n, expanded_);
    }
  }

 private:
  const PackedView w_;
  const int64_t slice_;
  std::byte* const expanded_;
};

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
  const WeightSlices weight(args.weight, plan, scratch.data() + plan.weight);

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

  if (counted > 0) weight.ExpandAll(context);
  int64_t done = 0;
  for (int64_t i = 0; i < plan.ChunksOf(counted); ++i) {
    const int64_t count = plan.RowsOf(counted, i);
    constexpr int64_t kStep = LinearCrossEntropyPlan::kRowStep;
    const int64_t padded = RoundUp(count, kStep);
    Gather(args, row_list + done, count, padded, hidden, labels, context);

    auto* const logits = reinterpret_cast<float*>(scratch.data() + plan.logits);
    auto* const row_sums = reinterpret_cast<float*>(scratch.data() + plan.row_sums);
    int64_t parts = 0;  // in row_sums, for each row
    weight.ForEach(context, [&](int64_t first, int64_t n, const void* w) {
      GemmProblem forward = plan.Logits(padded, n);
      forward.segments[0].a = hidden;
      forward.segments[0].b = w;
      forward.c = logits + first;
      if (plan.with_row_sums()) forward.row_sums = row_sums;
      const GemmPlan gemm = Product(forward, product, context);
      if (plan.with_row_sums()) parts = RowSumParts(gemm, forward);
    });

    if (plan.cap != 0) {
      Launch<device::CapRows>(kOp, context, Blocks(padded, 1),
                              device::CapRowsParams{logits, plan.vocab, plan.pitch, plan.cap});
    }

    LogitRows rows{logits, DType::kF32, count, plan.vocab, plan.pitch, labels};
    if (plan.with_row_sums()) {
      RowLoss(kOp, rows, row_sums, parts, losses + done, lse, context);
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
      to.cap = plan.cap;
      to.dlogits = scratch.data() + plan.gradients;
      to.dtype = plan.dtype;
      to.pitch = plan.pitch;
      SoftmaxGradient(kOp, rows, lse, to, context);

      weight.ForEach(context, [&](int64_t first, int64_t n, const void* w) {
        GemmProblem backward = plan.HiddenGradient(padded, n);
        backward.segments[0].a =
            static_cast<std::byte*>(to.dlogits) + static_cast<size_t>(first) * SizeOf(plan.dtype);
        backward.segments[0].b = w;
        backward.c = d_hidden;
        if (first > 0) {
          backward.addend = d_hidden;
          backward.addend_pitch = plan.dim;
        }
        Product(backward, product, context);
      });
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
