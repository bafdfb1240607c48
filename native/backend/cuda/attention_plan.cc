#include "backend/cuda/attention_plan.h"

#include <algorithm>

#include "core/error.h"

namespace lora::cuda {
namespace {

// Returns the tiles of rows of all pairs.
int64_t TilesOf(const AttentionProblem& p, const AttentionTile& tile) {
  return p.batch * p.kv_heads * ((p.rows + tile.rows - 1) / tile.rows);
}

}  // namespace

int PaddedHeadDim(int64_t d) {
  if (d > kMaxHeadDim) {
    Throw("ERR_UNSUPPORTED", "attention", "expected a head_dim of at most ", kMaxHeadDim,
          " on cuda but received ", d);
  }
  return d <= 64 ? 64 : d <= 128 ? 128 : 256;
}

AttentionTile ForwardTile(const AttentionProblem& p, DType dtype, int multiprocessors) {
  const int padded = PaddedHeadDim(p.d);
  if (dtype == DType::kF32) return {padded == 256 ? 32 : 64, padded == 256 ? 16 : 32};
  if (p.rows <= kDecodeRows) return {kDecodeRows, 64};
  const AttentionTile large{128, 64};
  if (padded <= 128 && dtype == DType::kBF16 && TilesOf(p, large) >= 2 * multiprocessors)
    return large;
  return {64, padded == 256 ? 32 : 64};
}

AttentionTile KeyGradientTile(int padded, bool tensor_cores) {
  if (tensor_cores) return {padded == 64 ? 48 : padded == 128 ? 32 : 16, 64};
  return {padded == 256 ? 16 : 32, padded == 64 ? 64 : padded == 128 ? 32 : 16};
}

namespace {

// Returns into how many parts each of `tiles` blocks, with `steps` tiles along its loop, is split:
// enough for two waves of blocks, where whole blocks do not fill even one wave.
int64_t SplitsFor(int64_t tiles, int64_t steps, int64_t least_steps, int multiprocessors) {
  if (tiles == 0 || tiles >= multiprocessors) return 1;
  return std::max<int64_t>(
      1, std::min({2 * multiprocessors / tiles, steps / least_steps, kMaxSplits}));
}

}  // namespace

AttentionPlan PlanAttention(const AttentionProblem& p, DType dtype, int multiprocessors) {
  const AttentionTile tile = ForwardTile(p, dtype, multiprocessors);
  AttentionPlan plan;
  plan.tile = tile;
  plan.tiles = TilesOf(p, tile);
  // A part of fewer than two tiles costs more in the merge than it saves.
  plan.splits = SplitsFor(plan.tiles, (p.longest + tile.keys - 1) / tile.keys, 2, multiprocessors);
  if (plan.splits > 1) {
    plan.partial_rows = plan.splits * p.batch * p.kv_heads * p.rows;
    plan.scratch_bytes = static_cast<size_t>(plan.partial_rows * (p.d + 2)) * sizeof(float);
  }
  return plan;
}

AttentionBackwardPlan PlanAttentionBackward(const AttentionProblem& p, const AttentionTile& tile,
                                            int multiprocessors) {
  AttentionBackwardPlan plan;
  plan.tiles = p.batch * p.kv_heads * ((p.keys + tile.keys - 1) / tile.keys);
  // The merge reads two f32 tiles of every part, which 8 tiles of rows outweigh.
  plan.splits = SplitsFor(plan.tiles, (p.longest + tile.rows - 1) / tile.rows, 8, multiprocessors);
  return plan;
}

}  // namespace lora::cuda
