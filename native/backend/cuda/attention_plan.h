// Plans how the work of attention is split. Plans depend on the problem and the number of
// multiprocessors alone, so that two runs give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/maths/dtype.h"

namespace lora::cuda {

constexpr int64_t kMaxHeadDim = 256;

// Returns the head dim for which there are kernels: 64, 128 or 256. Throws ERR_UNSUPPORTED above.
int PaddedHeadDim(int64_t d);

// A tile of the forward pass.
struct AttentionTile {
  int rows, keys;
};
// A (batch, kv head) of at most this many rows takes the decode kernel on tensor cores.
constexpr int kDecodeRows = 16;

struct AttentionProblem {
  int64_t batch = 0, kv_heads = 0;
  int64_t rows = 0;     // per (batch, kv head): queries · group
  int64_t longest = 0;  // keys that a tile of rows may see; in the gradient, rows that see a key
  int64_t d = 0;
  int64_t keys = 0;  // of a (batch, kv head); used for the gradient only
};

// Tiles are split into at most so many parts.
constexpr int64_t kMaxSplits = 64;

// Tiles are of 128 rows for head dims up to 128 in bf16, where there are two of them for every
// multiprocessor. Their keys are never split.
AttentionTile ForwardTile(const AttentionProblem& problem, DType dtype, int multiprocessors);

struct AttentionPlan {
  AttentionTile tile{};
  int64_t tiles = 0;   // of rows, of all pairs
  int64_t splits = 1;  // parts of the keys of a tile, each a block of its own
  int64_t blocks() const { return tiles * splits; }
  // One of each tile whose keys are split (Gpu::counters): fewer than multiprocessors.
  int64_t counters() const { return splits > 1 ? tiles : 0; }
  // Rows of the partial results, one for every row and part: sums, maxima and
  // weights. 0 with one part.
  int64_t partial_rows = 0;
  size_t scratch_bytes = 0;
};
AttentionPlan PlanAttention(const AttentionProblem& problem, DType dtype, int multiprocessors);

// The plan of the gradient. dq has a block for every tile of rows; dk and dv have one for every
// tile of keys and part of the rows that see it.
struct AttentionBackwardPlan {
  int64_t tiles = 0;   // of keys, of all pairs
  int64_t splits = 1;  // parts of the rows of a tile of keys
  int64_t blocks() const { return tiles * splits; }
  int64_t counters() const { return splits > 1 ? tiles : 0; }  // fewer than multiprocessors
};
// Returns the keys and rows of a tile of dk and dv.
AttentionTile KeyGradientTile(int padded, bool tensor_cores);
AttentionBackwardPlan PlanAttentionBackward(const AttentionProblem& problem,
                                            const AttentionTile& tile, int multiprocessors);

}  // namespace lora::cuda
