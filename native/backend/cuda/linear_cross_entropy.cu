// logits   = scale·hidden·Wᵀ, or scale·cap·tanh(hidden·Wᵀ/cap), a chunk of rows at a time, and
//            their losses
// d_hidden = scale·(softmax − onehot)·W from the same logits, times the slopes of a cap
// Only rows that count are computed; they are gathered first. Per chunk, W is read once per
// direction. In bf16 the product of the logits leaves their exponentials, in 16 bits, and f32 sums
// of these (gemm_logits.cuh), so that no logit is kept, and scaling the exponentials makes the
// gradients, which are what tensor cores take. In f32 it leaves the logits, which the losses, the
// entropies and the gradients read in turn.
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
void Product(const GemmProblem& problem, Scratch scratch, Context& context) {
  Gemm(kOp, problem, PlanGemm(kOp, problem, context.threads()), scratch, context);
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

struct Chunk {
  LogitRows rows;  // those that count
  int64_t padded;  // rows of the products
  const std::byte* hidden;
  float* of_row;
  double* losses;
  RowValues values;
};

// Leave the losses of a chunk, and in the place of its logits their gradients, where the plan has
// some.
void LossesOfLogits(const Chunk& chunk, const LinearCrossEntropyPlan& plan,
                    const WeightSlices& weight, Scratch product, Context& context) {
  LogitRows rows = chunk.rows;
  auto* const logits = static_cast<float*>(rows.logits);
  weight.ForEach(context, [&](int64_t first, int64_t n, const void* w) {
    GemmProblem forward = plan.Logits(chunk.padded, n);
    forward.segments[0].a = chunk.hidden;
    forward.segments[0].b = w;
    forward.c = logits + first;
    Product(forward, product, context);
  });
  if (plan.cap != 0) {
    Launch<device::CapRows>(kOp, context, Blocks(chunk.padded, 1),
                            device::CapRowsParams{logits, plan.vocab, plan.pitch, plan.cap});
  }
  float* const lse = chunk.of_row;
  SoftmaxLoss(kOp, rows, chunk.losses, lse, false, context);
  RowValues values = chunk.values;
  values.lse = lse;
  StoreRowValues(kOp, rows, values, context);
  if (!plan.gradient) return;
  rows.rows = chunk.padded;
  LogitGradients to;
  to.scale = plan.scale;
  to.cap = plan.cap;
  to.dlogits = logits;
  to.pitch = plan.pitch;
  SoftmaxGradient(kOp, rows, lse, to, context);
}

void LossesOfParts(const Chunk& chunk, const LinearCrossEntropyPlan& plan,
                   const WeightSlices& weight, float* parts, Context& context) {
  const LogitRows& rows = chunk.rows;
  RowParts of_rows{parts, chunk.of_row};
  int tile = 0;
  weight.ForEach(context, [&](int64_t first, int64_t n, const void* w) {
    GemmProblem forward = plan.Logits(chunk.padded, n);
    forward.segments[0].a = chunk.hidden;
    forward.segments[0].b = w;
    if (plan.gradient) forward.c = static_cast<uint16_t*>(rows.logits) + first;
    forward.tile = tile;
    const GemmPlan gemm = PlanGemm(kOp, forward, context.threads());
    tile = gemm.tile;
    of_rows.columns = PartColumns(gemm);
    of_rows.count = CeilDiv(plan.vocab, of_rows.columns);
    forward.logits->first = first;
    forward.logits->parts = parts;
    forward.logits->parts_pitch = of_rows.count;
    forward.logits->labels = rows.labels;
    forward.logits->label_logits = of_rows.label_logits;
    Gemm(kOp, forward, gemm, {}, context);
  });
  RowLoss(kOp, of_rows, rows.rows, plan.scale, plan.cap, chunk.losses, chunk.values, context);
  // The rows of padding keep their exponentials, whose product nobody reads.
  if (plan.gradient) RowGradient(kOp, of_rows, rows, context);
}

void RunPlanned(const LinearCrossEntropyArgs& args, const LinearCrossEntropyPlan& plan,
                Scratch scratch, Context& context) {
  const int64_t counted = CheckLabels(kOp, args.labels, plan.vocab, scratch.data() + plan.check,
                                      static_cast<CudaContext&>(context));
  if (!args.losses) RequireLabels(kOp, counted);
  auto* const row_list = reinterpret_cast<int32_t*>(scratch.data() + plan.row_list);
  auto* const losses = reinterpret_cast<double*>(scratch.data() + plan.losses);
  auto* const labels = reinterpret_cast<int32_t*>(scratch.data() + plan.labels);
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

    Chunk chunk{{scratch.data() + plan.logits, plan.dtype, count, plan.vocab, plan.pitch, labels},
                padded,
                hidden,
                reinterpret_cast<float*>(scratch.data() + plan.of_row),
                losses + done,
                {losses + done, nullptr, row_list + done}};
    if (args.losses) chunk.values.losses_to = Data<float>(args.losses);
    if (args.entropies) chunk.values.entropies_to = Data<float>(args.entropies);
    if (plan.in_parts()) {
      auto* const parts = reinterpret_cast<float*>(scratch.data() + plan.parts);
      LossesOfParts(chunk, plan, weight, parts, context);
    } else {
      LossesOfLogits(chunk, plan, weight, product, context);
    }
    if (plan.gradient) {
      weight.ForEach(context, [&](int64_t first, int64_t n, const void* w) {
        GemmProblem backward = plan.HiddenGradient(padded, n);
        backward.segments[0].a =
            scratch.data() + plan.logits + static_cast<size_t>(first) * SizeOf(plan.dtype);
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
