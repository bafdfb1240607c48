#include "backend/cuda/skinny_plan.h"

#include <algorithm>

#include "backend/cuda/occupancy.h"
#include "core/maths/ceil_div.h"

namespace lora::cuda {
namespace {

// With fewer steps than this a block's pipeline hardly starts, and more blocks only mean
// more partial sums.
constexpr int64_t kMinSteps = 2;

}  // namespace

SkinnyPlan PlanSkinny(std::span<const SkinnyShape> jobs, int64_t step, int multiprocessors) {
  int64_t work = 0;  // steps of all blocks
  for (const SkinnyShape& job : jobs)
    work += CeilDiv(job.outs, kSkinnyOuts) * CeilDiv(job.depth, step);
  const int64_t blocks_wanted = 2 * std::max(multiprocessors, 1);
  const int64_t steps_each = std::max(kMinSteps, CeilDiv(work, blocks_wanted));

  SkinnyPlan plan;
  for (const SkinnyShape& job : jobs) {
    SkinnySplit split;
    split.first_block = plan.blocks;
    split.first_counter = plan.counters;
    split.partial = plan.partial_floats;
    if (job.outs > 0) {
      // A job without depth has a block that stores zeros.
      const int64_t steps = std::max<int64_t>(CeilDiv(job.depth, step), 1);
      const int64_t wanted =
          std::clamp((steps + steps_each / 2) / steps_each, int64_t{1}, kSkinnyMaxSplits);
      // Lengths are evened out, so that the last split is not much shorter than the others.
      split.chunk = CeilDiv(steps, wanted) * step;
      split.splits = std::max<int64_t>(CeilDiv(job.depth, split.chunk), 1);
      const int64_t tiles = CeilDiv(job.outs, kSkinnyOuts);
      plan.blocks += tiles * split.splits;
      // Such a job has steps ≥ 1.5·steps_each, and all tiles of all jobs have at most
      // 2·multiprocessors·steps_each steps.
      if (split.splits > 1) plan.counters += tiles;
      plan.partial_floats += static_cast<size_t>(split.splits * job.outs * job.tiles * 8);
    }
    plan.jobs.push_back(split);
  }
  return plan;
}

int SkinnyStages(size_t stage_bytes, size_t mask_bytes, int most_blocks, size_t available) {
  const auto blocks = [&](size_t stages) {
    const size_t bytes = stages * stage_bytes + mask_bytes;
    return std::min(most_blocks, BlocksBySharedMemory(bytes, available));
  };
  return blocks(2) >= 2 * blocks(3) ? 2 : 3;
}

}  // namespace lora::cuda
