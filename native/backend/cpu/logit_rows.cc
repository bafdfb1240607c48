#include "backend/cpu/logit_rows.h"

#include <algorithm>
#include <functional>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/logit_rows.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// A vector may not be longer than a chunk.
using Floats = hn::CappedTag<float, kLogitChunk>;
using Doubles = hn::CappedTag<double, kLogitChunk>;

LogitScan RunScanLogits(const float* HWY_RESTRICT logits, size_t n, float* HWY_RESTRICT largest) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const Floats d;
  const size_t lanes = hn::Lanes(d), chunks = LogitChunks(n);
  const auto infinity = hn::Set(d, kInfinity);
  LogitScan scan{-kInfinity, -1, -1};
  for (size_t c = 0; c < chunks; ++c) {
    const float* HWY_RESTRICT chunk = logits + c * kLogitChunk;
    const size_t count = std::min(kLogitChunk, n - c * kLogitChunk);
    auto most = hn::Set(d, -kInfinity);
    auto good = hn::FirstN(d, lanes);  // all
    size_t i = 0;
    for (; i + lanes <= count; i += lanes) {
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
  const Doubles d;
  const hn::Rebind<float, Doubles> df;
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

}  // namespace HWY_NAMESPACE
}  // namespace lora::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {
namespace {

HWY_EXPORT(RunScanLogits);
HWY_EXPORT(RunSumWeights);

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

}  // namespace lora::cpu
#endif  // HWY_ONCE
