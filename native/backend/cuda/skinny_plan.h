// Plans how a launch of skinny.cuh splits its work, from the shapes and the device only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace lora::cuda {

// One job of a launch computes out [outs, tiles·8] = Σ over depth.
struct SkinnyShape {
  int64_t outs = 0, depth = 0;
  int tiles = 0;
};
struct SkinnySplit {
  int64_t chunk = 0;   // of depth, per block; a multiple of the step
  int64_t splits = 0;  // 0 where there are no outs, 1 also where there is nothing to add
  int64_t first_block = 0;
  int64_t first_counter = 0;  // of one for each block's outs, where there are several splits
  size_t partial = 0;         // floats before this job's [splits, outs, tiles·8] in scratch
};
struct SkinnyPlan {
  std::vector<SkinnySplit> jobs;
  int64_t blocks = 0;
  int64_t counters = 0;  // at most 4/3 for each multiprocessor
  size_t partial_floats = 0;
};

// The launches of a low-rank product, which use scratch and counters one after the other.
struct LowRankPlan {
  std::vector<SkinnyPlan> launches;
  size_t scratch_bytes = 0;
};

constexpr int64_t kSkinnyOuts = 128;  // of one block
constexpr int64_t kSkinnyMaxSplits = 32;

// `step` is how much of depth a block takes at once. Depth is split until there are about two
// blocks for every multiprocessor; these run at once, so hardly any block waits for a second turn.
// All jobs have one length, so that every block has about the same work.
SkinnyPlan PlanSkinny(std::span<const SkinnyShape> jobs, int64_t step, int multiprocessors);

// Chooses the stages of shared memory of a launch: 3, or 2 where a block may not have 3, and where
// 2 let twice as many blocks run on a multiprocessor, whose warps then hide more than a stage does.
// `most_blocks` is how many its registers allow, `available` what a block may have. The stages
// change no bit of the sums.
int SkinnyStages(size_t stage_bytes, size_t mask_bytes, int most_blocks, size_t available);

}  // namespace lora::cuda
