// Plans how products of matrices are split. Plans are pure functions of shapes, dtypes and
// multiprocessors, so pointers may still be null.
#pragma once

#include <vector>

#include "backend/cuda/gemm.h"

namespace lora::cuda {

// One launch: consecutive segments, split along k into parts that each write a slab of f32 sums.
struct GemmLaunch {
  size_t first = 0, count = 0;  // of GemmPlan::segments
  int blocks = 0;               // of tile_k along them
  int splits = 1, blocks_per_split = 0;
  int slab = 0;  // the first of its splits
};

struct GemmPlan {
  bool tensor_cores = false;
  int tile = 0, tile_k = 0;          // tile × tile of c by one block of threads
  int64_t tiles = 0;                 // of a batch
  std::vector<size_t> segments;      // of the problem, those with k > 0
  std::vector<GemmLaunch> launches;  // none where c is empty
  // With more than one slab, sums go to scratch as [slabs][m][partial_pitch] f32, and a last launch
  // adds the slabs in order.
  int slabs = 1;
  int64_t partial_pitch = 0;
  size_t scratch_bytes = 0;
};

// Throws ERR_UNSUPPORTED where no kernel can index the sizes.
GemmPlan PlanGemm(const char* op, const GemmProblem& problem, int multiprocessors);

// Returns how many logits a part of GemmLogits has: a warp's columns.
inline int64_t PartColumns(const GemmPlan& plan) { return plan.tile / 2; }

// Several products: those whose results are not empty share one launch, or each has its own.
struct GemmGroupPlan {
  bool together = false;
  std::vector<GemmPlan> plans;
  size_t scratch_bytes = 0;
};
GemmGroupPlan PlanGemmGroup(const char* op, const std::vector<GemmProblem>& problems,
                            int multiprocessors);

}  // namespace lora::cuda
