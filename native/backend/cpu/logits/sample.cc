// Draws one row per task by the rules of core/maths/sampling.h.
//
// SampleRow weighs every token in double, one after the other, and costs a millisecond for 50,000
// tokens. Here only tokens that can matter are weighed so: the likeliest ones, sorted, in the same
// order and with the same sums. Where the sum of all weights is needed, it is computed in vectors;
// it errs in another way than SampleRow's, and a decision that is closer than both errors together
// is left to SampleRow. So the tokens are always those of SampleRow.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/logits/logit_rows.h"
#include "backend/cpu/runtime/arena.h"
#include "backend/cpu/runtime/context.h"
#include "core/maths/sampling.h"

namespace lora::cpu {
namespace {

constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr size_t kFewTokens = 64;  // top_p looks for its mass among about as many first

// The scratch of one thread.
struct RowScratch {
  float* logits = nullptr;  // where they are not f32 already
  float* chunk_largest;     // [chunks]
  float* chunk_copy;        // [chunks]
  double* chunk_sums;       // [chunks]
  std::byte* draw;          // of SampleRow, or the weights and the ids of candidates
  size_t draw_bytes;
  RankedToken* ranked;    // [vocab]
  uint32_t* rank_counts;  // [kRankCounts]

  RowScratch(const SampleArgs& args, Arena& arena)
      : draw_bytes(SampleRowScratchBytes(args.logits.dim(1))) {
    const auto vocab = static_cast<size_t>(args.logits.dim(1));
    if (args.logits.dtype != DType::kF32) logits = arena.Take<float>(vocab);
    chunk_largest = arena.Take<float>(LogitChunks(vocab));
    chunk_copy = arena.Take<float>(LogitChunks(vocab));
    chunk_sums = arena.Take<double>(LogitChunks(vocab));
    draw = arena.Take<std::byte>(draw_bytes);
    ranked = arena.Take<RankedToken>(vocab);
    rank_counts = arena.Take<uint32_t>(kRankCounts);
  }
};

size_t BytesOfThread(const SampleArgs& args) {
  Arena arena;
  RowScratch(args, arena);
  return arena.bytes();
}

// One row to draw from, whose logits have been scanned and hold something.
class RowDraw {
 public:
  RowDraw(const RowSampling& sampling, const float* logits, size_t vocab, const LogitScan& scan,
          const RowScratch& scratch)
      : sampling_(sampling),
        logits_(logits),
        vocab_(vocab),
        scan_(scan),
        scratch_(scratch),
        weights_(reinterpret_cast<double*>(scratch.draw)),
        ids_(reinterpret_cast<int32_t*>(weights_ + vocab)) {}

  // Returns nothing where a decision is too close.
  std::optional<int32_t> Draw() {
    const double u = sampling_.Uniform();
    if (sampling_.top_k > 0 && static_cast<size_t>(sampling_.top_k) < vocab_) {
      TakeTopK();
      if (sampling_.top_p < 1) LimitByTopP();
    } else if (sampling_.top_p < 1) {
      if (!TakeTopP()) return std::nullopt;
    } else if (sampling_.min_p > 0) {
      TakeMinP();
    } else {
      return DrawFromAll(u);
    }
    if (sampling_.min_p > 0) LimitByMinP();
    return DrawFromOrder(u * total_);
  }

 private:
  double Weight(int32_t id) const {
    return std::exp((static_cast<double>(logits_[id]) - static_cast<double>(scan_.largest)) /
                    static_cast<double>(sampling_.temperature));
  }
  // Exponentials err by one unit in the last place here and in SampleRow, and a sum of n weights by
  // n·2⁻⁵³ in any order; a target is a part of such a sum.
  double Margin(double total) const {
    return total * static_cast<double>(vocab_ + 8) / static_cast<double>(uint64_t{1} << 51);
  }
  double SumAll() const {
    SumWeights(logits_, vocab_, scan_.largest, sampling_.temperature, scratch_.chunk_sums);
    return std::accumulate(scratch_.chunk_sums, scratch_.chunk_sums + LogitChunks(vocab_), 0.0);
  }

  // Makes ids_ the `count_` tokens of a logit ≥ least, in order. Those of −∞ are never drawn.
  void TakeFrom(float least) {
    count_ = CollectFrom(std::max(least, kLowest), logits_, vocab_, scratch_.chunk_largest, ids_);
    // Weights are computed of tokens in order, so their room is free.
    static_assert(sizeof(RankedToken) == sizeof(double));
    SortFromLargest(logits_, ids_, count_, reinterpret_cast<RankedToken*>(weights_),
                    scratch_.ranked, scratch_.rank_counts);
  }
  float LeastOfTop(size_t k) const {
    return LowerBoundOfTop(scratch_.chunk_largest, vocab_, k, scratch_.chunk_copy);
  }
  void SumInOrder() { total_ = std::accumulate(weights_, weights_ + count_, 0.0); }

  void TakeTopK() {
    const auto k = static_cast<size_t>(sampling_.top_k);
    TakeFrom(k <= LogitChunks(vocab_) ? LeastOfTop(k) : kLowest);
    count_ = std::min(k, count_);
    for (size_t i = 0; i < count_; ++i) weights_[i] = Weight(ids_[i]);
    SumInOrder();
  }

  void LimitByTopP() {
    const double enough = static_cast<double>(sampling_.top_p) * total_;
    double sum = 0;
    size_t kept = 0;
    while (kept < count_ && (kept == 0 || sum < enough)) sum += weights_[kept++];
    count_ = kept;
    total_ = sum;
  }

  bool TakeTopP() {
    const double total = SumAll(), margin = Margin(total);
    const double enough = static_cast<double>(sampling_.top_p) * total;
    // As a rule a few tokens are enough. If not, those that seem to be, and then all.
    TakeFrom(LeastOfTop(std::min(kFewTokens, LogitChunks(vocab_))));
    for (int attempt = 0;; ++attempt) {
      double sum = 0;
      for (size_t i = 0; i < count_; ++i) {
        weights_[i] = Weight(ids_[i]);
        sum += weights_[i];
        if (std::fabs(sum - enough) <= margin) return false;
        if (sum > enough) {
          count_ = i + 1;
          total_ = sum;
          return true;
        }
      }
      if (attempt == 2) return false;
      TakeFrom(attempt == 0 ? LeastOfShare((enough - sum) / (total - sum)) : kLowest);
    }
  }

  // Returns a logit such that the tokens down to it probably have `share` of all weight that is not
  // in the order, by what some of them weigh.
  float LeastOfShare(double share) const {
    // Bucket i is of the logits that are i to i + 1 widths below those in the order.
    constexpr size_t kBuckets = 1024, kStride = 8;
    static_assert(kBuckets <= kRankCounts);
    uint32_t* const counts = scratch_.rank_counts;
    std::fill_n(counts, kBuckets, 0u);
    const float above = logits_[ids_[count_ - 1]], width = sampling_.temperature / 16;
    for (size_t i = 0; i < vocab_; i += kStride) {
      if (!(logits_[i] < above)) continue;
      ++counts[static_cast<size_t>(std::min((above - logits_[i]) / width, float{kBuckets - 1}))];
    }
    const double fall = std::exp(-1.0 / 16);
    double all = 0, weight = 1;
    for (size_t i = 0; i < kBuckets; ++i, weight *= fall) all += counts[i] * weight;
    // A little more, since few were counted, but not all.
    const double enough = all * (share + std::min(0.1 * share, 0.4 * (1 - share)));
    double sum = 0;
    weight = 1;
    for (size_t i = 0; i + 1 < kBuckets; ++i, weight *= fall) {
      sum += counts[i] * weight;
      if (sum > enough) return above - static_cast<float>(i + 1) * width;
    }
    return kLowest;
  }

  void TakeMinP() {
    const double largest = scan_.largest, temperature = sampling_.temperature;
    const double distance = temperature * std::log(static_cast<double>(sampling_.min_p));
    // A little lower, so that no token is missed for a rounding.
    const double slack = 1e-6 * (std::fabs(largest) + std::fabs(distance));
    TakeFrom(static_cast<float>(std::max(largest + distance - slack, double{kLowest})));
    size_t kept = 0;
    for (size_t i = 0; i < count_; ++i) {
      const double weight = Weight(ids_[i]);
      if (weight < double{sampling_.min_p}) continue;
      ids_[kept] = ids_[i];
      weights_[kept++] = weight;
    }
    count_ = kept;
  }

  void LimitByMinP() {
    size_t kept = 0;
    while (kept < count_ && weights_[kept] >= double{sampling_.min_p}) ++kept;
    count_ = kept;
    SumInOrder();
  }

  int32_t DrawFromOrder(double mass) const {
    double sum = 0;
    int32_t last = ids_[0];
    for (size_t i = 0; i < count_ && !(sum > mass); ++i) {
      sum += weights_[i];
      if (weights_[i] > 0) last = ids_[i];
    }
    return last;
  }

  std::optional<int32_t> DrawFromAll(double u) const {
    const double total = SumAll(), margin = Margin(total), mass = u * total;
    double before = 0;
    size_t chunk = 0;
    while (chunk + 1 < LogitChunks(vocab_) && before + scratch_.chunk_sums[chunk] <= mass) {
      before += scratch_.chunk_sums[chunk++];
    }
    const size_t end = std::min(vocab_, (chunk + 1) * kLogitChunk);
    for (size_t i = chunk * kLogitChunk; i < end; ++i) {
      const double sum = before + Weight(static_cast<int32_t>(i));
      if (sum > mass) {
        // Before the first token the sum is exactly 0.
        const bool passed_none = before == 0 ? mass > 0 : mass - before > margin;
        if (passed_none && sum - mass > margin) return static_cast<int32_t>(i);
        return std::nullopt;
      }
      before = sum;
    }
    return std::nullopt;
  }

  const RowSampling& sampling_;
  const float* logits_;
  size_t vocab_;
  const LogitScan& scan_;
  const RowScratch& scratch_;
  double* weights_;
  int32_t* ids_;
  size_t count_ = 0;
  double total_ = 0;
};

int32_t DrawRow(const RowSampling& sampling, const float* logits, size_t vocab,
                const RowScratch& scratch) {
  const LogitScan scan = ScanLogits(logits, vocab, scratch.chunk_largest);
  if (scan.first_bad >= 0) return -1 - scan.first_bad;
  if (scan.best < 0) return kNothingToDraw;
  if (sampling.temperature == 0) return scan.best;
  const auto id = RowDraw(sampling, logits, vocab, scan, scratch).Draw();
  if (id) return *id;
  return SampleRow(sampling, logits, static_cast<int64_t>(vocab),
                   {scratch.draw, scratch.draw_bytes});
}

}  // namespace

size_t ScratchBytes(const SampleArgs& args, int threads) {
  return BytesOfThread(args) * static_cast<size_t>(threads);
}

void Run(const SampleArgs& args, Scratch scratch, Context& context) {
  RequireActivation("sample", args.logits.dtype);
  const size_t rows = static_cast<size_t>(args.logits.dim(0));
  const size_t vocab = static_cast<size_t>(args.logits.dim(1));
  const auto* reals = args.reals.as<const float>();
  const auto* wholes = args.wholes.as<const int32_t>();
  RequireRowSampling(reals, wholes, args.logits.dim(0));
  const size_t per_thread = BytesOfThread(args);
  static_cast<CpuContext&>(context).ParallelFor(rows, [&](size_t row, size_t thread) {
    Arena arena(scratch.subspan(thread * per_thread, per_thread));
    const RowScratch own(args, arena);
    const float* logits = args.logits.as<const float>() + row * vocab;
    if (own.logits != nullptr) {
      const size_t row_bytes = vocab * SizeOf(args.logits.dtype);
      ConvertToF32(args.logits.as<const std::byte>() + row * row_bytes, args.logits.dtype, vocab,
                   own.logits);
      logits = own.logits;
    }
    args.ids.as<int32_t>()[row] =
        DrawRow(RowSamplingOf(reals, wholes, static_cast<int64_t>(row)), logits, vocab, own);
  });
}

template PlannedCall Plan(const SampleArgs&, int);
}  // namespace lora::cpu
