#include "core/maths/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/maths/philox.h"

namespace lora {
namespace {

// Returns the first of the largest.
template <class T>
int64_t Largest(const T* logits, int64_t vocab, int64_t row) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  int64_t best = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    if (!(logits[i] < kInfinity)) {
      Throw("ERR_NON_FINITE", "sample", "logits of row ", row, " hold ",
            std::isnan(logits[i]) ? "NaN" : "+Infinity", " at token ", i);
    }
    if (logits[i] > logits[best]) best = i;
  }
  if (logits[best] == -kInfinity) {
    Throw("ERR_NON_FINITE", "sample", "logits of row ", row, " are all -Infinity");
  }
  return best;
}

double UniformOf(const SampleArgs& args, int64_t row) {
  return UniformFromWord(
      Philox4x32(args.seed, {args.step, static_cast<uint32_t>(row), 0, kSampleTag})[0]);
}

// Returns the first of ids[0 .. count) whose running sum of weights exceeds `mass`.
int32_t Draw(const int32_t* ids, int64_t count, const double* weights, double mass) {
  double sum = 0;
  int32_t last = ids[0];
  for (int64_t i = 0; i < count; ++i) {
    const double weight = weights[ids[i]];
    sum += weight;
    if (weight > 0) last = ids[i];
    if (sum > mass) break;
  }
  return last;
}

}  // namespace

size_t SampleRowScratchBytes(const SampleArgs& args) {
  if (args.temperature == 0) return 0;
  return static_cast<size_t>(args.logits.dim(1)) * (sizeof(double) + sizeof(int32_t));
}

template <class T>
int32_t SampleRow(const SampleArgs& args, int64_t row, const T* logits,
                  std::span<std::byte> scratch) {
  const int64_t vocab = args.logits.dim(1);
  const int64_t best = Largest(logits, vocab, row);
  if (args.temperature == 0) return static_cast<int32_t>(best);

  double* weights = reinterpret_cast<double*>(scratch.data());
  int32_t* ids = reinterpret_cast<int32_t*>(weights + vocab);
  const double largest = logits[best], temperature = args.temperature;
  for (int64_t i = 0; i < vocab; ++i) {
    weights[i] = std::exp((static_cast<double>(logits[i]) - largest) / temperature);
  }
  std::iota(ids, ids + vocab, 0);
  const auto before = [logits](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  const auto total_of = [weights, ids](int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += weights[ids[i]];
    return sum;
  };

  int64_t count = vocab;
  const bool limits_count = args.top_k > 0 && args.top_k < vocab;
  if (limits_count) {
    count = args.top_k;
    std::nth_element(ids, ids + count, ids + vocab, before);
    std::sort(ids, ids + count, before);
  }
  double total = total_of(count);
  if (args.top_p < 1) {
    const double enough = static_cast<double>(args.top_p) * total;
    double sum = 0;
    int64_t kept = 0;
    // As a rule a few tokens of many are enough. They are taken from a heap, which keeps the next
    // on top, and collected at the end of the array, last first.
    const auto after = [&before](int32_t a, int32_t b) { return before(b, a); };
    if (!limits_count) std::make_heap(ids, ids + count, after);
    while (kept < count && (kept == 0 || sum < enough)) {
      if (!limits_count) std::pop_heap(ids, ids + count - kept, after);
      sum += weights[limits_count ? ids[kept] : ids[count - kept - 1]];
      ++kept;
    }
    if (!limits_count) std::reverse(ids, ids + count);
    count = kept;
    total = sum;
  }
  return Draw(ids, count, weights, UniformOf(args, row) * total);
}

template int32_t SampleRow(const SampleArgs&, int64_t, const float*, std::span<std::byte>);
template int32_t SampleRow(const SampleArgs&, int64_t, const double*, std::span<std::byte>);

}  // namespace lora
