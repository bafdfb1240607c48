#include "core/maths/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/maths/philox.h"

namespace lora {
namespace {

// Returns the first of the largest, or the id of a row that fails.
template <class T>
int32_t Largest(const T* logits, int64_t vocab) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  int64_t best = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    if (!(logits[i] < kInfinity)) return static_cast<int32_t>(-1 - i);
    if (logits[i] > logits[best]) best = i;
  }
  return logits[best] == -kInfinity ? kNothingToDraw : static_cast<int32_t>(best);
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

double RowSampling::Uniform() const {
  return UniformFromWord(Philox4x32(seed, {step, 0, 0, kSampleTag})[0]);
}

RowSampling RowSamplingOf(const float* reals, const int32_t* wholes, int64_t row) {
  reals += row * kSampleReals;
  wholes += row * kSampleWholes;
  const auto word = [wholes](int i) { return static_cast<uint32_t>(wholes[i]); };
  return {reals[0], reals[1], reals[2], wholes[0], word(1), word(2) | uint64_t{word(3)} << 32};
}

void RequireRowSampling(const float* reals, const int32_t* wholes, int64_t rows) {
  for (int64_t row = 0; row < rows; ++row) {
    const auto require = [row](bool holds, const char* expected, auto received) {
      if (holds) return;
      Throw("ERR_DATA", "sample", "expected ", expected, " in row ", row, " but received ",
            received);
    };
    const RowSampling s = RowSamplingOf(reals, wholes, row);
    require(std::isfinite(s.temperature) && s.temperature >= 0, "temperature of 0 (greedy) or more",
            s.temperature);
    require(s.top_p > 0 && s.top_p <= 1, "topP in (0, 1]", s.top_p);
    require(s.min_p >= 0 && s.min_p <= 1, "minP in [0, 1]", s.min_p);
    require(s.top_k >= 0, "topK of 0 (all) or more", s.top_k);
  }
}

size_t SampleRowScratchBytes(int64_t vocab) {
  return static_cast<size_t>(vocab) * (sizeof(double) + sizeof(int32_t));
}

template <class T>
int32_t SampleRow(const RowSampling& sampling, const T* logits, int64_t vocab,
                  std::span<std::byte> scratch) {
  const int32_t best = Largest(logits, vocab);
  if (best < 0 || sampling.temperature == 0) return best;

  double* weights = reinterpret_cast<double*>(scratch.data());
  int32_t* ids = reinterpret_cast<int32_t*>(weights + vocab);
  const double largest = logits[best], temperature = sampling.temperature;
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
  bool ordered = false;
  if (sampling.top_k > 0 && sampling.top_k < vocab) {
    count = sampling.top_k;
    std::nth_element(ids, ids + count, ids + vocab, before);
    std::sort(ids, ids + count, before);
    ordered = true;
  }
  double total = total_of(count);
  if (sampling.top_p < 1) {
    const double enough = static_cast<double>(sampling.top_p) * total;
    double sum = 0;
    int64_t kept = 0;
    // As a rule a few tokens of many are enough. They are taken from a heap, which keeps the next
    // on top, and collected at the end of the array, last first.
    const auto after = [&before](int32_t a, int32_t b) { return before(b, a); };
    if (!ordered) std::make_heap(ids, ids + count, after);
    while (kept < count && (kept == 0 || sum < enough)) {
      if (!ordered) std::pop_heap(ids, ids + count - kept, after);
      sum += weights[ordered ? ids[kept] : ids[count - kept - 1]];
      ++kept;
    }
    if (!ordered) std::reverse(ids, ids + count);
    ordered = true;
    count = kept;
    total = sum;
  }
  if (sampling.min_p > 0) {
    const double least = sampling.min_p;
    if (!ordered) {
      int32_t* const end =
          std::partition(ids, ids + count, [&](int32_t id) { return weights[id] >= least; });
      count = end - ids;
      std::sort(ids, end, before);
    }
    int64_t kept = 0;
    while (kept < count && weights[ids[kept]] >= least) ++kept;
    count = kept;
    total = total_of(count);
  }
  return Draw(ids, count, weights, sampling.Uniform() * total);
}

template int32_t SampleRow(const RowSampling&, const float*, int64_t, std::span<std::byte>);
template int32_t SampleRow(const RowSampling&, const double*, int64_t, std::span<std::byte>);

}  // namespace lora
