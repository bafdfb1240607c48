#include "backend/cuda/attention_plan.h"

#include <algorithm>

#include "core/error.h"

namespace lora::cuda {

int PaddedHeadDim(int64_t d) {
  if (d > kMaxHeadDim) {
    Throw("ERR_UNSUPPORTED", "attention", "expected a head_dim of at most ", kMaxHeadDim,
          " on cuda but received ", d);
  }
  return d <= 64 ? 64 : d <= 128 ? 128 : 256;
}

AttentionTile ForwardTile(int padded, bool tensor_cores) {
  if (tensor_cores) return {64, padded == 256 ? 32 : 64};
  return {padded == 256 ? 32 : 64, padded == 256 ? 16 : 32};
}

AttentionPlan PlanAttention(const AttentionProblem& p, const AttentionTile& tile,
                            int multiprocessors) {
  // A part of fewer tiles than this costs more in the merge than it saves.
  constexpr int64_t kLeastTiles = 2, kMostSplits = 64;
  AttentionPlan plan;
  plan.tiles = p.batch * p.kv_heads * ((p.rows + tile.rows - 1) / tile.rows);
  if (plan.tiles == 0) return plan;
  // Parts for two waves of blocks, where there is not even one of whole tiles.
  if (plan.tiles < multiprocessors) {
    const int64_t key_tiles = (p.longest + tile.keys - 1) / tile.keys;
    plan.splits =
        std::min({2 * multiprocessors / plan.tiles, key_tiles / kLeastTiles, kMostSplits});
    plan.splits = std::max<int64_t>(plan.splits, 1);
  }
  if (plan.splits > 1) {
    plan.partial_rows = plan.splits * p.batch * p.kv_heads * p.rows;
    plan.scratch_bytes = static_cast<size_t>(plan.partial_rows * (p.d + 2)) * sizeof(float);
  }
  return plan;
}

}  // namespace lora::cuda
