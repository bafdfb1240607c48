#include "backend/cpu/logits/logit_rows.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <utility>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/logits/logit_rows.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/simd/simd-inl.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

static_assert(kLanes <= kLogitChunk);

LogitScan RunScanLogits(const float* HWY_RESTRICT logits, size_t n, float* HWY_RESTRICT largest) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const DF d;
  const size_t chunks = LogitChunks(n);
  const auto infinity = hn::Set(d, kInfinity);
  LogitScan scan{-kInfinity, -1, -1};
  for (size_t c = 0; c < chunks; ++c) {
    const float* HWY_RESTRICT chunk = logits + c * kLogitChunk;
    const size_t count = std::min(kLogitChunk, n - c * kLogitChunk);
    auto most = hn::Set(d, -kInfinity);
    auto good = hn::FirstN(d, kLanes);  // all
    size_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      const auto v = hn::LoadU(d, chunk + i);
      most = hn::Max(most, v);
      good = hn::And(good, hn::Lt(v, infinity));
    }
    float chunk_most = hn::ReduceMax(d, most);
    bool all_good = hn::AllTrue(d, good);
    for (; i < count; ++i) {
      all_good = all_good && chunk[i] < kInfinity;
      chunk_most = std::max(chunk_most, chunk[i]);
    }
    if (!all_good) {
      const auto* const bad =
          std::find_if(chunk, chunk + count, [](float x) { return !(x < kInfinity); });
      scan.first_bad = static_cast<int32_t>(bad - logits);
      return scan;
    }
    largest[c] = chunk_most;
    if (chunk_most > scan.largest) {
      scan.largest = chunk_most;
      scan.best = static_cast<int32_t>(c);
    }
  }
  if (scan.best < 0) return scan;
  const float* const chunk = logits + static_cast<size_t>(scan.best) * kLogitChunk;
  scan.best = static_cast<int32_t>(std::find(chunk, logits + n, scan.largest) - logits);
  return scan;
}

void RunSumWeights(const float* HWY_RESTRICT logits, size_t n, float largest, float temperature,
                   double* HWY_RESTRICT sums) {
  const DF64 d;
  const hn::Rebind<float, DF64> df;
  const size_t lanes = hn::Lanes(d);
  const auto top = hn::Set(d, static_cast<double>(largest));
  const auto divisor = hn::Set(d, static_cast<double>(temperature));
  const auto weights = [&](auto x) HWY_ATTR {
    return hn::Exp(d, hn::Div(hn::Sub(hn::PromoteTo(d, x), top), divisor));
  };
  for (size_t c = 0; c < LogitChunks(n); ++c) {
    const float* HWY_RESTRICT chunk = logits + c * kLogitChunk;
    const size_t count = std::min(kLogitChunk, n - c * kLogitChunk);
    auto sum0 = hn::Zero(d), sum1 = sum0;
    size_t i = 0;
    for (; i + 2 * lanes <= count; i += 2 * lanes) {
      sum0 = hn::Add(sum0, weights(hn::LoadU(df, chunk + i)));
      sum1 = hn::Add(sum1, weights(hn::LoadU(df, chunk + i + lanes)));
    }
    for (; i < count; i += lanes) {
      const size_t left = std::min(lanes, count - i);
      const auto w = weights(hn::LoadN(df, chunk + i, left));
      sum0 = hn::Add(sum0, hn::IfThenElseZero(hn::FirstN(d, left), w));
    }
    sums[c] = hn::ReduceSum(d, hn::Add(sum0, sum1));
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {
namespace {

HWY_EXPORT(RunScanLogits);
HWY_EXPORT(RunSumWeights);

// A rank has three digits, of 11, 11 and 10 bits.
constexpr size_t kDigitBits = 11, kDigits = 3;
constexpr size_t kDigitSize = size_t{1} << kDigitBits;
static_assert(kDigits * kDigitSize == kRankCounts && kDigits * kDigitBits >= 32);

// Clearing and summing the counts of digits takes longer than comparing so few tokens.
constexpr size_t kFewToSort = 128;

size_t Digit(uint32_t rank, size_t digit) { return (rank >> (digit * kDigitBits)) % kDigitSize; }

// Equal logits have equal ranks: the sum makes +0 of −0.
uint32_t RankOf(float logit) {
  const auto bits = std::bit_cast<uint32_t>(logit + 0.0f);
  return (bits >> 31) != 0 ? bits : bits ^ 0x7fffffffu;
}

}  // namespace

LogitScan ScanLogits(const float* logits, size_t n, float* chunk_largest) {
  return HWY_DYNAMIC_DISPATCH(RunScanLogits)(logits, n, chunk_largest);
}

void SumWeights(const float* logits, size_t n, float largest, float temperature,
                double* chunk_sums) {
  HWY_DYNAMIC_DISPATCH(RunSumWeights)(logits, n, largest, temperature, chunk_sums);
}

float LowerBoundOfTop(const float* chunk_largest, size_t n, size_t k, float* copy) {
  const size_t chunks = LogitChunks(n);
  std::copy_n(chunk_largest, chunks, copy);
  std::nth_element(copy, copy + k - 1, copy + chunks, std::greater<>());
  return copy[k - 1];
}

size_t CollectFrom(float least, const float* logits, size_t n, const float* chunk_largest,
                   int32_t* ids) {
  size_t count = 0;
  for (size_t c = 0; c < LogitChunks(n); ++c) {
    if (!(chunk_largest[c] >= least)) continue;
    const size_t end = std::min(n, (c + 1) * kLogitChunk);
    for (size_t i = c * kLogitChunk; i < end; ++i) {
      ids[count] = static_cast<int32_t>(i);
      count += logits[i] >= least ? 1 : 0;
    }
  }
  return count;
}

void SortFromLargest(const float* logits, int32_t* ids, size_t count, RankedToken* from,
                     RankedToken* to, uint32_t* counts) {
  if (count < kFewToSort) {
    std::sort(ids, ids + count, [logits](int32_t a, int32_t b) {
      return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
    });
    return;
  }
  // Radix sort from the lowest digit. Each pass keeps the order of equal digits, so ids still rise
  // among equal logits.
  std::fill_n(counts, kRankCounts, 0u);
  for (size_t i = 0; i < count; ++i) {
    from[i] = {RankOf(logits[ids[i]]), ids[i]};
    for (size_t d = 0; d < kDigits; ++d) ++counts[d * kDigitSize + Digit(from[i].rank, d)];
  }
  for (size_t d = 0; d < kDigits; ++d) {
    uint32_t* const places = counts + d * kDigitSize;
    if (places[Digit(from[0].rank, d)] == count) continue;  // all have this digit
    uint32_t place = 0;
    for (size_t i = 0; i < kDigitSize; ++i) place += std::exchange(places[i], place);
    for (size_t i = 0; i < count; ++i) to[places[Digit(from[i].rank, d)]++] = from[i];
    std::swap(from, to);
  }
  for (size_t i = 0; i < count; ++i) ids[i] = from[i].id;
}

}  // namespace lora::cpu
#endif  // HWY_ONCE
