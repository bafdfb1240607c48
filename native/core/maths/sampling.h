// Draws a token from a row of logits: one algorithm for every backend that computes on the host, so
// that a seed means the same text everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/ops/ops.h"

namespace lora {

constexpr uint32_t kSampleTag = 0x53414d50;  // "SAMP", in the Philox counter

// How one row is sampled.
size_t SampleRowScratchBytes(const SampleArgs& args);

// Returns the token of row `row`, whose logits are given. T is float or double.
//
// Temperature 0 takes the first of the largest logits. Otherwise, in double:
//   1. Tokens are ordered by larger logit, then by smaller id. top_k, if above 0, keeps that many.
//   2. The weight of a token is exp((logit − largest logit) / temperature). The total is summed in
//      that order if top_k limits, else by rising id.
//   3. top_p < 1 keeps the shortest beginning of the order whose running sum reaches top_p · total,
//      and this sum becomes the total.
//   4. u = word 0 of the Philox call with key seed and counter (step, row, 0, "SAMP"), over 2³².
//      The token is the first whose running sum exceeds u · total, in the order of 1, or by rising
//      id if neither top_k nor top_p limits; should rounding leave none, the last of weight > 0.
// A logit of −∞ is never drawn. NaN, +∞, or a row of nothing but −∞ fails with ERR_NON_FINITE.
template <class T>
int32_t SampleRow(const SampleArgs& args, int64_t row, const T* logits,
                  std::span<std::byte> scratch);

extern template int32_t SampleRow(const SampleArgs&, int64_t, const float*, std::span<std::byte>);
extern template int32_t SampleRow(const SampleArgs&, int64_t, const double*, std::span<std::byte>);

}  // namespace lora
