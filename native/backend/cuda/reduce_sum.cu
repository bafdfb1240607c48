#include <algorithm>

#include "backend/cuda/any_elements.h"
#include "backend/cuda/context.h"
#include "backend/cuda/device/reduce_sum.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/nest.h"

namespace lora::cuda {
namespace {

using device::kSumColumns;
using device::kSumRowThreads;
using device::kSumThreads;
using device::kSumVector;

struct Plan {
  bool columns = false;  // the innermost dimension of x is kept
  bool warps = false;    // rows: a warp per sum
  int64_t blocks = 0;
  device::SumParams params{};
};

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks to start, and turns that every thread takes at least: below that, splitting costs more
// than it saves.
constexpr int64_t kWaves = 2, kLeastTurns = 4;

// x and y have elements; nothing is launched otherwise.
Plan MakePlan(const ReduceSumArgs& args, int multiprocessors) {
  Plan plan;
  device::SumParams& p = plan.params;
  const Shape& shape = args.x.shape;
  const auto strides = BroadcastStrides(shape, shape.rank());
  device::Nest<1>* list = nullptr;  // that of the innermost dimension
  int64_t terms = 1;
  p.outputs = 1;
  for (int d = 0; d < shape.rank(); ++d) {
    const int from_right = shape.rank() - d;
    const bool kept = from_right <= args.y.shape.rank() && args.y.shape[-from_right] == shape[d];
    if (shape[d] == 1) continue;
    (kept ? p.outputs : terms) *= shape[d];
    list = kept ? &p.kept : &p.terms;
    AppendDimension<1>(*list, shape[d], {strides[static_cast<size_t>(d)]});
  }
  p.inner = 1;
  if (list != nullptr) {
    plan.columns = list == &p.kept;
    p.inner = list->dims[--list->rank];
  }
  const int64_t target = kWaves * multiprocessors;
  int64_t alone, least;  // blocks without splits; units that a split has at least
  if (plan.columns) {
    p.count = terms;
    alone = CeilDiv(p.inner, kSumColumns) * (p.outputs / p.inner);
    least = kLeastTurns * kSumRowThreads;
  } else {
    p.count = terms / p.inner * CeilDiv(p.inner, kSumVector);
    plan.warps = p.count <= kLeastTurns * kSumThreads && p.outputs > 1;
    alone = plan.warps ? CeilDiv(p.outputs, kSumThreads / 32) : p.outputs;
    least = kLeastTurns * kSumThreads;
  }
  const int64_t splits =
      std::clamp<int64_t>(CeilDiv(target, alone), 1, std::max<int64_t>(p.count / least, 1));
  p.per_split = CeilDiv(p.count, splits);
  p.splits = CeilDiv(p.count, p.per_split);
  plan.blocks = plan.warps ? CeilDiv(p.outputs * p.splits, kSumThreads / 32) : alone * p.splits;
  return plan;
}

}  // namespace

size_t ReduceSumScratchBytes(const ReduceSumArgs& args, int threads) {
  if (args.x.numel() == 0) return 0;
  const device::SumParams p = MakePlan(args, threads).params;
  return p.splits > 1 ? static_cast<size_t>(p.splits * p.outputs) * sizeof(device::Compensated) : 0;
}

void ReduceSum(const ReduceSumArgs& args, Scratch scratch, Context& context) {
  if (args.y.numel() == 0) return;
  if (args.x.numel() == 0) return Fill(FillArgs{0, args.y}, {}, context);
  Plan plan = MakePlan(args, context.threads());
  device::SumParams& p = plan.params;
  p.x = Input("sum", args.x);
  p.y = Output("sum", args.y);
  if (p.splits > 1) p.partial = reinterpret_cast<device::Compensated*>(scratch.data());
  device::LaunchShape shape = Blocks(plan.blocks, 1);
  if (plan.columns) {
    shape.shared_bytes = device::kSumColumnsShared;
    Launch<device::SumColumns>("sum", context, shape, p);
  } else if (plan.warps) {
    Launch<device::SumRows<32>>("sum", context, shape, p);
  } else {
    shape.shared_bytes = kSumThreads / 32 * sizeof(device::Compensated);
    Launch<device::SumRows<kSumThreads>>("sum", context, shape, p);
  }
  if (p.splits > 1) Launch<device::FinishSums>("sum", context, Blocks(p.outputs, kSumThreads), p);
}

}  // namespace lora::cuda
