// Functions on one row of logits [n] in f32, which the ops of sampling share.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lora::cpu {

// A row is seen in chunks, so that what searches for large logits can skip most of it.
constexpr size_t kLogitChunk = 64;
constexpr size_t LogitChunks(size_t n) { return (n + kLogitChunk - 1) / kLogitChunk; }

struct LogitScan {
  float largest;
  int32_t best;       // the first token with it, or −1 where no logit is above −∞
  int32_t first_bad;  // the first NaN or +∞, or −1
};

// Scans a row and writes the largest logit of each chunk. What it writes and returns beside
// first_bad means nothing where there is a bad logit.
LogitScan ScanLogits(const float* logits, size_t n, float* chunk_largest);

// chunk_sums[c] = Σ exp((logits − largest) / temperature) over chunk c, in double. Each exponential
// errs by one unit in the last place, and the order of a sum depends on the instruction set.
void SumWeights(const float* logits, size_t n, float largest, float temperature,
                double* chunk_sums);

// Returns the k-th largest of the chunks' largest logits: at least k tokens have this logit or a
// larger one. 0 < k ≤ LogitChunks(n). `copy` has room for the chunks.
float LowerBoundOfTop(const float* chunk_largest, size_t n, size_t k, float* copy);

// Writes the ids of all logits ≥ least, rising, and returns how many there are.
size_t CollectFrom(float least, const float* logits, size_t n, const float* chunk_largest,
                   int32_t* ids);

// A token whose rank rises where its logit falls.
struct RankedToken {
  uint32_t rank;
  int32_t id;
};
constexpr size_t kRankCounts = 3 * 2048;

// Sorts ids, which rise, by larger logit, then by smaller id. There is no NaN among the logits.
// `from` and `to` have room for the ids, `counts` for kRankCounts.
void SortFromLargest(const float* logits, int32_t* ids, size_t count, RankedToken* from,
                     RankedToken* to, uint32_t* counts);

}  // namespace lora::cpu
