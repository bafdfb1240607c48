#include "backend/cuda/linear_cross_entropy_plan.h"

#include <algorithm>

#include "backend/cuda/expand.h"
#include "backend/cuda/gemm_plan.h"
#include "backend/cuda/ids.h"
#include "core/maths/ceil_div.h"
#include "core/runtime/memory_limit.h"

namespace lora::cuda {
namespace {

constexpr const char* kOp = "linear_cross_entropy";

// As it is when a process asks first, so that all its plans agree.
size_t LossBytes() {
  static const size_t bytes =
      BytesFromEnvironment("LORA_CUDA_LOSS_BYTES").value_or(LinearCrossEntropyPlan::kLossBytes);
  return bytes;
}

// Returns how many rows of W are expanded at once.
int64_t SliceOf(const PackedView& w) {
  const auto row_bytes = static_cast<size_t>(std::max<int64_t>(w.cols, 1)) * SizeOf(w.dtype);
  if (ExpandedBytes(w) <= LossBytes()) return w.rows;
  const auto fit = static_cast<int64_t>(LossBytes() / row_bytes);
  return std::min(w.rows, std::max(fit / kBlockValues * kBlockValues, kBlockValues));
}

}  // namespace

int64_t LinearCrossEntropyPlan::ChunksOf(int64_t counted) const { return CeilDiv(counted, chunk); }

// All chunks but the last have the same number of rows, a multiple of kRowStep.
int64_t LinearCrossEntropyPlan::RowsOf(int64_t counted, int64_t i) const {
  const int64_t chunks = ChunksOf(counted);
  const int64_t each = RoundUp(CeilDiv(counted, chunks), kRowStep);
  return std::clamp<int64_t>(counted - i * each, 0, each);
}

GemmProblem LinearCrossEntropyPlan::Logits(int64_t m, int64_t n) const {
  GemmProblem p;
  p.m = m;
  p.n = n;
  p.a_dtype = p.b_dtype = dtype;
  p.c_dtype = dtype;
  p.trans_b = true;
  p.segments.resize(1);
  p.segments[0].k = p.segments[0].a_pitch = p.segments[0].b_pitch = dim;
  p.segments[0].b_stored = stored;
  p.alpha = scale;
  p.c_pitch = pitch;
  if (in_parts()) p.logits = GemmLogits{.cap = cap};
  return p;
}

GemmProblem LinearCrossEntropyPlan::HiddenGradient(int64_t m, int64_t n) const {
  GemmProblem p;
  p.m = m;
  p.n = dim;
  p.a_dtype = p.b_dtype = dtype;
  p.c_dtype = DType::kF32;
  p.segments.resize(1);
  p.segments[0].k = n;
  p.segments[0].a_pitch = pitch;
  p.segments[0].b_pitch = dim;
  p.segments[0].b_stored = stored;
  p.c_pitch = dim;
  return p;
}

LinearCrossEntropyPlan PlanLinearCrossEntropy(const LinearCrossEntropyArgs& args,
                                              int multiprocessors) {
  LinearCrossEntropyPlan plan;
  plan.rows = args.hidden.dim(0);
  plan.dim = args.hidden.dim(1);
  plan.vocab = args.weight.rows;
  plan.dtype = args.hidden.dtype;
  plan.stored = OperandDType(args.weight);
  plan.gradient = args.d_hidden.defined;
  plan.scale = args.scale;
  plan.cap = args.cap * args.scale;
  plan.pitch = RoundUp(plan.vocab, 8);
  plan.slice = SliceOf(args.weight);
  const size_t size = SizeOf(plan.dtype);
  const size_t row_bytes = static_cast<size_t>(std::max<int64_t>(plan.pitch, 1)) * size;
  const int64_t fit =
      static_cast<int64_t>(LossBytes() / row_bytes) / plan.kMinChunk * plan.kMinChunk;
  plan.chunk = std::min(std::clamp(fit, plan.kMinChunk, plan.kMaxChunk),
                        RoundUp(std::max<int64_t>(plan.rows, 1), plan.kRowStep));

  const auto rows = static_cast<size_t>(plan.rows), chunk = static_cast<size_t>(plan.chunk);
  const auto dim = static_cast<size_t>(plan.dim);
  const size_t logits = chunk * static_cast<size_t>(plan.pitch);
  const auto take = [&](size_t& place, size_t bytes) {
    place = plan.bytes;
    plan.bytes += (bytes + 255) / 256 * 256;
  };
  take(plan.check, kIdCheckBytes);
  take(plan.row_list, rows * sizeof(int32_t));
  take(plan.losses, rows * sizeof(double));
  take(plan.labels, chunk * sizeof(int32_t));
  take(plan.of_row, chunk * sizeof(float));
  take(plan.hidden, chunk * dim * size);
  if (plan.gradient || !plan.in_parts()) take(plan.logits, logits * size);
  if (plan.gradient) take(plan.d_hidden, chunk * dim * sizeof(float));
  PackedView slice = args.weight;
  slice.rows = plan.slice;
  take(plan.weight, ExpandedBytes(slice));
  // The last slice may have fewer rows.
  const int64_t last = plan.slice > 0 ? (plan.vocab - 1) % plan.slice + 1 : 0;
  size_t product = 0, parts = 0;
  for (int64_t m = plan.kRowStep; m <= plan.chunk; m += plan.kRowStep) {
    for (const int64_t n : {plan.slice, last}) {
      const GemmPlan gemm = PlanGemm(kOp, plan.Logits(m, n), multiprocessors);
      product = std::max(product, gemm.scratch_bytes);
      if (n == plan.slice)
        parts = std::max(parts, static_cast<size_t>(m * CeilDiv(plan.vocab, PartColumns(gemm))));
      if (!plan.gradient) continue;
      product = std::max(product,
                         PlanGemm(kOp, plan.HiddenGradient(m, n), multiprocessors).scratch_bytes);
    }
  }
  if (plan.in_parts()) take(plan.parts, parts * 3 * sizeof(float));
  take(plan.product, product);
  return plan;
}

}  // namespace lora::cuda
