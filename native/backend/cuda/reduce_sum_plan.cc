#include "backend/cuda/reduce_sum_plan.h"

#include <algorithm>

#include "backend/cuda/nest.h"
#include "core/maths/ceil_div.h"

namespace lora::cuda {
namespace {

// Waves of blocks to start, and turns that every thread takes at least: with fewer turns, splitting
// costs more than it saves.
constexpr int64_t kWaves = 2, kLeastTurns = 4;

}  // namespace

ReduceSumPlan PlanReduceSum(const Shape& x, const Shape& y, int multiprocessors) {
  ReduceSumPlan plan;
  const auto strides = BroadcastStrides(x, x.rank());
  device::Nest<1>* innermost = nullptr;  // the list that has it
  int64_t terms = 1;
  for (int d = 0; d < x.rank(); ++d) {
    if (x[d] == 1) continue;
    const int from_right = x.rank() - d;
    const bool kept = from_right <= y.rank() && y[-from_right] == x[d];
    (kept ? plan.outputs : terms) *= x[d];
    innermost = kept ? &plan.kept : &plan.terms;
    AppendDimension<1>(*innermost, x[d], {strides[static_cast<size_t>(d)]});
  }
  if (innermost != nullptr) {
    plan.columns = innermost == &plan.kept;
    plan.inner = innermost->dims[--innermost->rank];
  }
  int64_t alone, least;  // blocks without splits; units that a split has at least
  if (plan.columns) {
    plan.count = terms;
    alone = CeilDiv(plan.inner, device::kSumColumns) * (plan.outputs / plan.inner);
    least = kLeastTurns * device::kSumRowThreads;
  } else {
    plan.count = terms / plan.inner * CeilDiv(plan.inner, device::kSumVector);
    plan.warps = plan.count <= kLeastTurns * device::kSumThreads && plan.outputs > 1;
    alone = plan.warps ? CeilDiv(plan.outputs, device::kSumThreads / 32) : plan.outputs;
    least = kLeastTurns * device::kSumThreads;
  }
  const int64_t most = plan.warps ? 1 : std::max<int64_t>(plan.count / least, 1);
  const int64_t splits = std::clamp<int64_t>(CeilDiv(kWaves * multiprocessors, alone), 1, most);
  plan.per_split = CeilDiv(plan.count, splits);
  plan.splits = CeilDiv(plan.count, plan.per_split);
  plan.blocks = alone * plan.splits;
  return plan;
}

}  // namespace lora::cuda
