// Draws a token from a row of logits: one algorithm for every backend that computes on the host, so
// that a seed means the same text everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

namespace lora {

constexpr uint32_t kSampleTag = 0x53414d50;  // "SAMP", in the Philox counter

// The columns of a row's operands: temperature, top_p, min_p, and top_k, step, two words of seed.
constexpr int64_t kSampleReals = 3, kSampleWholes = 4;

// The id of a row whose logits are all −∞. That of a row whose first bad logit is at t is −1 − t.
constexpr int32_t kNothingToDraw = std::numeric_limits<int32_t>::min();

// How one row is sampled.
struct RowSampling {
  float temperature = 0;  // 0: the first of the largest
  float top_p = 1;
  float min_p = 0;
  int32_t top_k = 0;
  uint32_t step = 0;
  uint64_t seed = 0;

  // Returns the uniform number of (seed, step).
  double Uniform() const;
};

// Reads row `row` of the operands.
RowSampling RowSamplingOf(const float* reals, const int32_t* wholes, int64_t row);

// Throws ERR_DATA where a value of the first `rows` rows is out of its range.
void RequireRowSampling(const float* reals, const int32_t* wholes, int64_t rows);

// Returns the bytes of scratch that SampleRow needs, aligned to 8.
size_t SampleRowScratchBytes(int64_t vocab);

// Returns the token of a row of logits, or what stands for a row that fails. T is float or double.
//
// Temperature 0 takes the first of the largest logits. Otherwise, in double:
//   1. Tokens are ordered by larger logit, then by smaller id. top_k, if above 0, keeps that many.
//   2. The weight of a token is exp((logit − largest logit) / temperature). The total is summed in
//      that order if top_k limits, else by rising id.
//   3. top_p < 1 keeps the shortest beginning of the order whose running sum reaches top_p · total,
//      and this sum becomes the total.
//   4. min_p > 0 (Nguyen et al., "Turning up the heat: min-p sampling", 2024) keeps the beginning
//      of the order whose weights are at least min_p, which is that share of the largest weight,
//      1. The total becomes their sum in that order.
//   5. u = word 0 of the Philox call with key seed and counter (step, 0, 0, "SAMP"), over 2³².
//      The token is the first whose running sum exceeds u · total, in the order of 1, or by rising
//      id if nothing of top_k, top_p and min_p limits; should rounding leave none, the last of
//      weight > 0.
// A logit of −∞ is never drawn.
template <class T>
int32_t SampleRow(const RowSampling& sampling, const T* logits, int64_t vocab,
                  std::span<std::byte> scratch);

extern template int32_t SampleRow(const RowSampling&, const float*, int64_t, std::span<std::byte>);
extern template int32_t SampleRow(const RowSampling&, const double*, int64_t, std::span<std::byte>);

}  // namespace lora
