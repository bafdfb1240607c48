// route: the k largest logits of a token and their softmax, and rows in the order of experts
// (experts.h). Tokens are split over the threads; one counts and places the assignments, in which
// a table of the experts stays in cache.
//
// spread_rows, combine_rows, row_dots: rows are split over the threads, and blocks of kBlock
// elements stay in L1 while the choices of a token are added to them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/layers/experts.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/simd/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
namespace {

struct TimesWeight {
  float weight;
  HWY_INLINE VF operator()(DF d, VF x) const { return hn::Mul(x, hn::Set(d, weight)); }
};
struct PlusTimesWeight {
  float weight;
  HWY_INLINE VF operator()(DF d, VF sum, VF x) const {
    return hn::MulAdd(x, hn::Set(d, weight), sum);
  }
};
struct RowProducts {
  const float *a, *b;
  HWY_INLINE VF Add(VF sum, size_t i) const {
    return hn::MulAdd(ReadVec(a + i), ReadVec(b + i), sum);
  }
  HWY_INLINE VF AddPart(VF sum, size_t i, size_t n) const {
    return hn::MulAdd(ReadPart(a + i, n), ReadPart(b + i, n), sum);
  }
};

// Calls f(first, n) for the blocks of a row.
template <class F>
HWY_INLINE void ForBlocks(size_t width, const F& f) {
  for (size_t first = 0; first < width; first += kBlock) f(first, std::min(kBlock, width - first));
}

}  // namespace

// to row j ← weight·x row i.
void ScaleRow(const TensorView& x, size_t i, float weight, const TensorView& to, size_t j) {
  const size_t width = static_cast<size_t>(x.dim(1));
  ForBlocks(width, [&](size_t first, size_t n) {
    HWY_ALIGN float from[kBlock], buffer[kBlock];
    const float* const values = ReadBlock(x.data, x.dtype, i * width + first, n, from);
    const WriteBlock out(to.data, to.dtype, j * width + first, buffer);
    Map(TimesWeight{weight}, n, out.to(), values);
    out.Finish(n);
  });
}

// to row t ← Σ weights[c]·x row places[c] over k choices.
void AddRows(const TensorView& x, const int32_t* places, const float* weights, size_t k,
             const TensorView& to, size_t t) {
  const size_t width = static_cast<size_t>(x.dim(1));
  ForBlocks(width, [&](size_t first, size_t n) {
    HWY_ALIGN float from[kBlock], sum[kBlock];
    std::fill_n(sum, n, 0.0f);
    for (size_t c = 0; c < k; ++c) {
      const size_t at = static_cast<size_t>(places[c]) * width + first;
      const float* const values = ReadBlock(x.data, x.dtype, at, n, from);
      Map(PlusTimesWeight{weights ? weights[c] : 1.0f}, n, sum, sum, values);
    }
    FromF32(sum, n, to.data, to.dtype, t * width + first);
  });
}

float DotRows(const TensorView& a, size_t i, const TensorView& b, size_t j) {
  const size_t width = static_cast<size_t>(a.dim(1));
  float sum = 0;
  ForBlocks(width, [&](size_t first, size_t n) {
    HWY_ALIGN float left[kBlock], right[kBlock];
    const float* const x = ReadBlock(a.data, a.dtype, i * width + first, n, left);
    const float* const y = ReadBlock(b.data, b.dtype, j * width + first, n, right);
    sum += SumVectors(n, RowProducts{x, y});
  });
  return sum;
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(ScaleRow);
HWY_EXPORT(AddRows);
HWY_EXPORT(DotRows);

namespace {

// Whether a logit comes before another one, whatever their places.
bool IsLarger(float x, float than) { return x > than || (std::isnan(than) && !std::isnan(x)); }

// The experts of the k largest of `count` logits.
void ChooseLargest(const float* logits, size_t count, size_t k, int32_t* experts) {
  size_t found = 0;
  for (size_t e = 0; e < count; ++e) {
    size_t place = found;
    while (place > 0 && IsLarger(logits[e], logits[experts[place - 1]])) --place;
    if (place == k) continue;
    found = std::min(found + 1, k);
    for (size_t i = found - 1; i > place; --i) experts[i] = experts[i - 1];
    experts[place] = static_cast<int32_t>(e);
  }
}

float LargestLogit(const float* logits, size_t count) {
  float largest = -std::numeric_limits<float>::infinity();
  for (size_t e = 0; e < count; ++e) largest = std::max(largest, logits[e]);
  return largest;
}

// The softmax of some logits: of all, or of those of k experts.
struct ExpertSoftmax {
  float largest;
  double sum = 0;
  ExpertSoftmax(const float* logits, size_t count) : largest(LargestLogit(logits, count)) {
    for (size_t e = 0; e < count; ++e) sum += Of(logits[e]);
  }
  double Of(float logit) const { return std::exp(static_cast<double>(logit - largest)); }
  double Weight(float logit) const { return Of(logit) / sum; }
};

ExpertSoftmax SoftmaxOf(const float* logits, size_t count, const int32_t* experts, size_t k,
                        bool among_chosen, std::vector<float>& chosen) {
  if (!among_chosen) return ExpertSoftmax(logits, count);
  chosen.clear();
  for (size_t c = 0; c < k; ++c) chosen.push_back(logits[experts[c]]);
  return ExpertSoftmax(chosen.data(), k);
}

bool IsPlace(int32_t place, size_t count) {
  return place >= 0 && static_cast<size_t>(place) < count;
}

// A row of what no operand says.
void FillNaN(const TensorView& to, size_t row) {
  const size_t width = static_cast<size_t>(to.dim(1));
  const std::vector<float> values(width, std::numeric_limits<float>::quiet_NaN());
  ConvertFromF32(values.data(), width, to.as<std::byte>() + row * width * SizeOf(to.dtype),
                 to.dtype);
}

}  // namespace

void Run(const RouteForwardArgs& args, Scratch, Context& context) {
  const size_t n = static_cast<size_t>(args.tokens()), count = static_cast<size_t>(args.count());
  const size_t k = static_cast<size_t>(args.chosen), m = n * k;
  auto* const experts = args.experts.as<int32_t>();
  ForRows(context, n, count * k, kCostlyGrain, [&](size_t begin, size_t end) {
    std::vector<float> chosen;
    for (size_t t = begin; t < end; ++t) {
      const float* const logits = args.logits.as<const float>() + t * count;
      ChooseLargest(logits, count, k, experts + t * k);
      const ExpertSoftmax sum =
          SoftmaxOf(logits, count, experts + t * k, k, args.among_chosen, chosen);
      for (size_t c = 0; c < k; ++c)
        args.weights.as<float>()[t * k + c] =
            static_cast<float>(sum.Weight(logits[experts[t * k + c]]));
    }
  });
  auto* const offsets = args.offsets.as<int32_t>();
  std::fill_n(offsets, count + 1, 0);
  for (size_t a = 0; a < m; ++a) ++offsets[experts[a] + 1];
  for (size_t e = 0; e < count; ++e) offsets[e + 1] += offsets[e];
  std::vector<int32_t> next(offsets, offsets + count);
  for (size_t a = 0; a < m; ++a) {
    const int32_t row = next[static_cast<size_t>(experts[a])]++;
    args.order.as<int32_t>()[row] = static_cast<int32_t>(a);
    args.places.as<int32_t>()[a] = row;
  }
}

void Run(const RouteBackwardArgs& args, Scratch, Context& context) {
  const size_t n = static_cast<size_t>(args.logits.dim(0));
  const size_t count = static_cast<size_t>(args.logits.dim(1));
  const size_t k = static_cast<size_t>(args.experts.dim(1));
  ForRows(context, n, count, kCostlyGrain, [&](size_t begin, size_t end) {
    std::vector<float> chosen, g;
    std::vector<int32_t> experts;
    for (size_t t = begin; t < end; ++t) {
      const float* const logits = args.logits.as<const float>() + t * count;
      float* const d = args.d_logits.as<float>() + t * count;
      experts.clear();
      g.clear();
      for (size_t c = 0; c < k; ++c) {
        const int32_t e = args.experts.as<const int32_t>()[t * k + c];
        if (!IsPlace(e, count)) continue;
        experts.push_back(e);
        g.push_back(args.g.as<const float>()[t * k + c]);
      }
      const ExpertSoftmax sum =
          SoftmaxOf(logits, count, experts.data(), experts.size(), args.among_chosen, chosen);
      double total = 0;
      for (size_t i = 0; i < g.size(); ++i) total += sum.Weight(logits[experts[i]]) * g[i];
      for (size_t e = 0; e < count; ++e)
        d[e] = args.among_chosen ? 0.0f : static_cast<float>(-sum.Weight(logits[e]) * total);
      for (size_t i = 0; i < g.size(); ++i)
        d[experts[i]] = static_cast<float>(sum.Weight(logits[experts[i]]) * (g[i] - total));
    }
  });
}

void Run(const SpreadRowsArgs& args, Scratch, Context& context) {
  const size_t m = static_cast<size_t>(args.order.dim(0));
  const size_t width = static_cast<size_t>(args.x.dim(1)), bytes = width * SizeOf(args.x.dtype);
  const auto* const order = args.order.as<const int32_t>();
  const auto* const weights = args.weights.as<const float>();
  ForRows(context, m, width, kCheapGrain, [&](size_t begin, size_t end) {
    for (size_t j = begin; j < end; ++j) {
      if (!IsPlace(order[j], m)) {
        FillNaN(args.y, j);
        continue;
      }
      const auto a = static_cast<size_t>(order[j]);
      const size_t token = a / (m / static_cast<size_t>(args.x.dim(0)));
      if (args.weights) {
        HWY_DYNAMIC_DISPATCH(ScaleRow)(args.x, token, weights[a], args.y, j);
      } else if (bytes > 0) {
        std::memcpy(args.y.as<std::byte>() + j * bytes,
                    args.x.as<const std::byte>() + token * bytes, bytes);
      }
    }
  });
}

void Run(const CombineRowsArgs& args, Scratch, Context& context) {
  const size_t m = static_cast<size_t>(args.x.dim(0)), k = static_cast<size_t>(args.chosen);
  const auto* const places = args.places.as<const int32_t>();
  const float* const weights = args.weights ? args.weights.as<const float>() : nullptr;
  ForRows(context, m / k, static_cast<size_t>(args.x.dim(1)) * k, kCheapGrain,
          [&](size_t begin, size_t end) {
            for (size_t t = begin; t < end; ++t) {
              const int32_t* const own = places + t * k;
              if (!std::all_of(own, own + k, [&](int32_t place) { return IsPlace(place, m); })) {
                FillNaN(args.y, t);
                continue;
              }
              HWY_DYNAMIC_DISPATCH(AddRows)
              (args.x, own, weights ? weights + t * k : nullptr, k, args.y, t);
            }
          });
}

void Run(const RowDotsArgs& args, Scratch, Context& context) {
  const size_t m = static_cast<size_t>(args.x.dim(0));
  const auto* const places = args.places.as<const int32_t>();
  ForRows(
      context, m, static_cast<size_t>(args.x.dim(1)), kCheapGrain, [&](size_t begin, size_t end) {
        for (size_t a = begin; a < end; ++a) {
          float& dot = args.dots.as<float>()[a];
          dot = std::numeric_limits<float>::quiet_NaN();
          if (!IsPlace(places[a], m)) continue;
          const size_t token = a / (m / static_cast<size_t>(args.g.dim(0)));
          dot =
              HWY_DYNAMIC_DISPATCH(DotRows)(args.g, token, args.x, static_cast<size_t>(places[a]));
        }
      });
}

template PlannedCall Plan(const RouteForwardArgs&, int);
template PlannedCall Plan(const RouteBackwardArgs&, int);
template PlannedCall Plan(const SpreadRowsArgs&, int);
template PlannedCall Plan(const CombineRowsArgs&, int);
template PlannedCall Plan(const RowDotsArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
