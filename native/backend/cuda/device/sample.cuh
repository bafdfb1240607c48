// Draws a token from each row of logits by the rules of core/maths/sampling.h, everything in f64.
//
// 1. SampleScan finds, in each part of a row, the first of the largest logits and the first logit
//    that is NaN or +∞.
// 2. SampleWeights combines those per row and writes exp((x − largest) / T) of its part. A row at
//    temperature 0, or with nothing to draw, gets its id here.
// 3. SampleDraw, a block per row, finds the token of the others.
//
// A running sum over tokens in some order is never stored. Tokens have keys that rise in that
// order: the id, or the bits of the logit, transformed so that larger logits have smaller keys. To
// find the token at which the running sum passes a target, the weights are summed by the highest
// four bits of their keys; the sum passes in one of the 16 groups, which the next four bits divide
// further. Each thread sums its own tokens in 16 cells of its own in shared memory, so that the
// order of every sum is fixed. Counting works the same way with weights of 1. Equal logits are told
// apart by their ids at the end. In the order of logits, the tokens that can still matter are
// listed after twelve bits, and from then on only those are read.
//
// SampleRow sums in another order and has another exp, so the two may differ in the last bits.
// Where a decision is closer than all such errors together, the row is marked kUncertain and the
// host decides, so that every device draws the same token.
#pragma once

#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/reduce.cuh"
#include "backend/cuda/device/rows.cuh"
#include "core/maths/philox.h"
#include "core/maths/sampling.h"

namespace lora::device {

constexpr int32_t kNoToken = 0x7fffffff;

// What the host has to do about a row: nothing, draw its token, or refuse its options.
enum class RowState : int32_t { kDrawn, kUncertain, kRefused };

// The result of a part of a row, or of a row.
struct LogitScan {
  float largest;
  int32_t best;       // the first token with it, or kNoToken
  int32_t first_bad;  // the first NaN or +∞, or kNoToken
  RowState state;     // of a row
  int32_t id;         // of a row, where it has been found
};

// The operands by which rows are sampled.
struct RowOptions {
  const float* reals;     // [rows, kSampleReals]
  const int32_t* wholes;  // [rows, kSampleWholes]

  LORA_DEVICE float temperature(int64_t row) const { return reals[row * kSampleReals]; }
  LORA_DEVICE float top_p(int64_t row) const { return reals[row * kSampleReals + 1]; }
  LORA_DEVICE float min_p(int64_t row) const { return reals[row * kSampleReals + 2]; }
  LORA_DEVICE int32_t top_k(int64_t row) const { return wholes[row * kSampleWholes]; }
  LORA_DEVICE uint32_t word(int64_t row, int i) const {
    return static_cast<uint32_t>(wholes[row * kSampleWholes + i]);
  }
  LORA_DEVICE uint32_t step(int64_t row) const { return word(row, 1); }
  LORA_DEVICE uint64_t seed(int64_t row) const {
    return word(row, 2) | uint64_t{word(row, 3)} << 32;
  }
  // Whether every value is in its range; NaN is not.
  LORA_DEVICE bool ok(int64_t row) const {
    const float t = temperature(row), p = top_p(row), m = min_p(row);
    return t >= 0 && t < BitsToFloat(0x7f800000u) && p > 0 && p <= 1 && m >= 0 && m <= 1 &&
           top_k(row) >= 0;
  }
};

constexpr int kSamplePart = 8192;  // tokens

LORA_DEVICE bool IsBelowInfinity(float x) { return x < BitsToFloat(0x7f800000u); }

template <class T>
struct SampleScanParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(uint64_t);
  const T* logits;  // [rows, vocab]
  int64_t vocab;
  int32_t parts;
  LogitScan* scans;  // [rows, parts]
};

struct MinToken {
  LORA_DEVICE int32_t operator()(int32_t a, int32_t b) const { return b < a ? b : a; }
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(SampleScanParams<T>::kThreads, SampleScanParams<T>::kMinBlocks)
    SampleScan(const LORA_GRID_CONSTANT SampleScanParams<T> p) {
  constexpr int kThreads = SampleScanParams<T>::kThreads, kN = 8;
  LORA_DYNAMIC_SHARED(shared);
  const T* logits = p.logits + int64_t{BlockX()} * p.vocab;
  const int64_t begin = FirstVector(logits) + int64_t{BlockY()} * kSamplePart;
  Indexed best{BitsToFloat(0xff800000u), kNoToken};
  int32_t first_bad = kNoToken;
  for (int64_t i = begin + ThreadIndex() * kN; i < begin + kSamplePart && i < p.vocab;
       i += kThreads * kN) {
    float x[kN];
    LoadOfRow(x, logits, i, p.vocab, BitsToFloat(0xff800000u));
    LORA_UNROLL
    for (int j = 0; j < kN; ++j) {
      const int32_t token = static_cast<int32_t>(i + j);
      if (!IsBelowInfinity(x[j])) first_bad = MinToken()(first_bad, token);
      if (x[j] > best.value) best = {x[j], token};
    }
  }
  best = BlockReduce<kThreads>(best, reinterpret_cast<Indexed*>(shared), MaxIndexed());
  first_bad = BlockReduce<kThreads>(first_bad, reinterpret_cast<int32_t*>(shared), MinToken());
  if (ThreadIndex() != 0) return;
  p.scans[int64_t{BlockX()} * p.parts + BlockY()] = {best.value, best.index, first_bad,
                                                     RowState::kDrawn, kNoToken};
}

template <class T>
struct SampleWeightsParams {
  static constexpr int kThreads = 256, kMinBlocks = 2;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(uint64_t);
  const T* logits;  // [rows, vocab]
  int64_t vocab;
  int32_t parts;
  const LogitScan* scans;  // [rows, parts]
  LogitScan* row_scans;    // [rows]
  RowOptions options;
  double* weights;  // [rows, vocab], of the rows that SampleDraw draws
  int32_t* ids;     // [rows], of the other rows
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(SampleWeightsParams<T>::kThreads,
                                    SampleWeightsParams<T>::kMinBlocks)
    SampleWeights(const LORA_GRID_CONSTANT SampleWeightsParams<T> p) {
  constexpr int kThreads = SampleWeightsParams<T>::kThreads, kN = 8;
  LORA_DYNAMIC_SHARED(shared);
  const int64_t row = BlockX();
  const LogitScan* scans = p.scans + row * p.parts;
  Indexed best{BitsToFloat(0xff800000u), kNoToken};
  int32_t first_bad = kNoToken;
  for (int part = ThreadIndex(); part < p.parts; part += kThreads) {
    best = MaxIndexed()(best, {scans[part].largest, scans[part].best});
    first_bad = MinToken()(first_bad, scans[part].first_bad);
  }
  best = BlockReduce<kThreads>(best, reinterpret_cast<Indexed*>(shared), MaxIndexed());
  first_bad = BlockReduce<kThreads>(first_bad, reinterpret_cast<int32_t*>(shared), MinToken());
  const T* logits = p.logits + row * p.vocab;
  const bool fails = first_bad != kNoToken || best.index == kNoToken;
  const bool ok = p.options.ok(row);
  if (BlockY() == 0 && ThreadIndex() == 0) {
    int32_t id = kNoToken;
    if (first_bad != kNoToken) {
      id = -1 - first_bad;
    } else if (best.index == kNoToken) {
      id = kNothingToDraw;
    } else if (p.options.temperature(row) == 0) {
      id = best.index;
    }
    p.row_scans[row] = {best.value, best.index, first_bad,
                        ok ? RowState::kDrawn : RowState::kRefused, id};
    p.ids[row] = id;
  }
  if (fails || !ok || p.options.temperature(row) == 0) return;
  const double largest = best.value, temperature = p.options.temperature(row);
  double* weights = p.weights + row * p.vocab;
  const int64_t begin = FirstVector(logits) + int64_t{BlockY()} * kSamplePart;
  for (int64_t i = begin + ThreadIndex() * kN; i < begin + kSamplePart && i < p.vocab;
       i += kThreads * kN) {
    float x[kN];
    LoadOfRow(x, logits, i, p.vocab, 0);
    LORA_UNROLL
    for (int j = 0; j < kN; ++j)
      if (i + j >= 0 && i + j < p.vocab)
        weights[i + j] = Exp((static_cast<double>(x[j]) - largest) / temperature);
  }
}

template <class T>
struct SampleDrawParams {
  static constexpr int kThreads = 512, kMinBlocks = 1, kGroups = 16;
  static_assert(kThreads / 32 == kGroups);
  static constexpr size_t kSharedBytes = (kGroups * kThreads + kGroups) * sizeof(double);
  const T* logits;        // [rows, vocab]
  const double* weights;  // [rows, vocab]
  int64_t vocab;
  int32_t* lists;        // [rows, vocab]
  LogitScan* row_scans;  // [rows]
  RowOptions options;
  int32_t* ids;  // [rows]
};

enum class Order : uint8_t { kById, kByLogit };

// Returns a key that rises as logits fall. Both zeros have one key.
LORA_DEVICE uint32_t KeyOfLogit(float x) {
  const uint32_t bits = FloatToBits(x == 0 ? 0.0f : x);
  return bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
}

// Where a running sum passes a target.
struct Passing {
  uint32_t key;
  int32_t first;  // the first token with that key
  double before;  // the sum of all tokens with lower keys
  double weight;  // of each token with that key
  double ties;    // how many of those with that key come before the one that passes
  bool certain;

  LORA_DEVICE double sum() const { return before + (ties + 1) * weight; }
};

// One row, which the threads of a block work on; all of them must call every function here.
template <class T>
struct SampledRow {
  using P = SampleDrawParams<T>;
  static constexpr int kThreads = P::kThreads, kGroups = P::kGroups, kBatch = 4;
  const T* logits;
  const double* weights;
  int64_t vocab;
  int32_t* list;                    // [vocab]
  double* mine;                     // [kGroups] with stride kThreads
  double* groups;                   // [kGroups], or slots for a reduction
  const int32_t* listed = nullptr;  // list, once it has been filled
  int64_t listed_count = 0;

  // Calls f(token, key) for every token, or for the listed ones; in the order of ids only for
  // [begin, end). One thread takes each token.
  template <Order kOrder, class F>
  LORA_DEVICE void ForTokens(int64_t begin, int64_t end, F f) const {
    const int32_t* const tokens = kOrder == Order::kByLogit ? listed : nullptr;
    for (int64_t first = begin + ThreadIndex(); first < end; first += kBatch * kThreads) {
      int64_t token[kBatch];
      uint32_t keys[kBatch];
      LORA_UNROLL
      for (int j = 0; j < kBatch; ++j) {
        const int64_t i = first + j * kThreads;
        token[j] = tokens != nullptr && i < end ? tokens[i] : i;
      }
      LORA_UNROLL
      for (int j = 0; j < kBatch; ++j) {
        const bool by_id = kOrder == Order::kById || first + j * kThreads >= end;
        keys[j] = by_id ? static_cast<uint32_t>(token[j]) : KeyOfLogit(ToFloat(logits[token[j]]));
      }
      LORA_UNROLL
      for (int j = 0; j < kBatch; ++j)
        if (first + j * kThreads < end) f(token[j], keys[j]);
    }
  }
  template <class F>
  LORA_DEVICE void ForTokens(F f) const {
    ForTokens<Order::kByLogit>(0, listed != nullptr ? listed_count : vocab, f);
  }

  // Lists the tokens whose key is at most `prefix` before its last `shift` bits. From now on only
  // these are read in the order of logits. The list is in the order of the threads.
  LORA_DEVICE void List(uint32_t prefix, int shift) {
    int32_t count = 0;
    ForTokens([&](int64_t, uint32_t key) { count += key >> shift <= prefix; });
    const Prefix<int32_t> place =
        BlockPrefixSum<kThreads>(count, reinterpret_cast<int32_t*>(groups));
    int32_t* to = list + place.before;
    ForTokens([&](int64_t token, uint32_t key) {
      if (key >> shift <= prefix) *to++ = static_cast<int32_t>(token);
    });
    listed = list;
    listed_count = place.total;
    SyncThreads();
  }

  template <class Op, class V>
  LORA_DEVICE V Reduce(V value, Op op) const {
    return BlockReduce<kThreads>(value, reinterpret_cast<V*>(groups), op);
  }

  // Returns the sum of the weights of keys below `key`.
  LORA_DEVICE double SumBelow(uint64_t key) const {
    double sum = 0;
    ForTokens([&](int64_t i, uint32_t k) {
      if (k < key) sum += weights[i];
    });
    return Reduce(sum, Sum());
  }

  // Returns the sum of the weights of at least `least`.
  LORA_DEVICE double SumFrom(double least) const {
    double sum = 0;
    for (int64_t i = ThreadIndex(); i < vocab; i += kThreads)
      if (weights[i] >= least) sum += weights[i];
    return Reduce(sum, Sum());
  }

  // Returns whether another exp could put any weight on the other side of `least`.
  LORA_DEVICE bool HasWeightNear(double least) const {
    const double error = least * (1.0 / (uint64_t{1} << 50));
    double near = 0;
    for (int64_t i = ThreadIndex(); i < vocab; i += kThreads)
      if (weights[i] > least - error && weights[i] < least + error) near = 1;
    return Reduce(near, Sum()) > 0;
  }

  // groups[g] ← the sum over tokens whose key is prefix·16 + g before its last `shift` bits.
  template <Order kOrder, bool kCount>
  LORA_DEVICE void SumGroups(uint32_t prefix, int shift) const {
    LORA_UNROLL
    for (int g = 0; g < kGroups; ++g) mine[g * kThreads] = 0;
    int64_t begin = 0, end = listed != nullptr ? listed_count : vocab;
    if (kOrder == Order::kById) {
      begin = int64_t{prefix} << (shift + 4);
      const int64_t last = int64_t{prefix + 1} << (shift + 4);
      end = last < vocab ? last : vocab;
    }
    ForTokens<kOrder>(begin, end, [&](int64_t i, uint32_t key) {
      if (static_cast<uint32_t>(uint64_t{key} >> (shift + 4)) != prefix) return;
      mine[static_cast<int>(key >> shift & 15) * kThreads] += kCount ? 1.0 : weights[i];
    });
    SyncThreads();
    const double* row = mine - ThreadIndex() + WarpIndex() * kThreads;
    double sum = 0;
    for (int t = LaneIndex(); t < kThreads; t += 32) sum += row[t];
    sum = WarpSum(sum);
    if (LaneIndex() == 0) groups[WarpIndex()] = sum;
    SyncThreads();
  }

  // Returns the first token in the order at which the running sum exceeds `target`. Where the sum
  // is within `margin` of the target, the result is not certain.
  template <Order kOrder, bool kCount>
  LORA_DEVICE Passing Pass(double target, double margin) {
    int shift = 28;
    if (kOrder == Order::kById)
      while (shift > 0 && (vocab - 1) >> shift == 0) shift -= 4;
    uint32_t prefix = 0;
    double before = 0;
    for (; shift >= 0; shift -= 4) {
      SumGroups<kOrder, kCount>(prefix, shift);
      // Rounding may leave no group in which the sum passes; then the last group that has
      // any weight is taken.
      int passing = 0;
      double sum = before, before_passing = before;
      for (int g = 0; g < kGroups; ++g) {
        const double more = groups[g];
        if (!(more > 0)) continue;
        passing = g;
        before_passing = sum;
        sum += more;
        if (sum > target) break;
      }
      prefix = prefix << 4 | static_cast<uint32_t>(passing);
      before = before_passing;
      SyncThreads();
      // After sign, exponent and three bits of the mantissa, few of a language
      // model's tokens are left.
      if (kOrder == Order::kByLogit && shift == 20 && listed == nullptr) List(prefix, shift);
    }
    Passing at{prefix, static_cast<int32_t>(prefix), before, 1, 0, true};
    if (kOrder == Order::kByLogit) at.first = TieOf(prefix, 0);
    if (!kCount) at.weight = weights[at.first];
    if (kOrder == Order::kByLogit && at.weight > 0 && target > before) {
      const double ties = (target - before) / at.weight;
      at.ties = static_cast<double>(static_cast<int64_t>(ties));
    }
    if (kCount) return at;
    const double below = before + at.ties * at.weight;
    // Before the first token the sum is exactly 0.
    const bool has_passed_none = below == 0 ? target > 0 : target - below > margin;
    at.certain = at.weight > 0 && has_passed_none && at.sum() - target > margin;
    return at;
  }

  // Returns the token at place `tie` among those with a key, counted from 0 by rising id; kNoToken
  // where there are not so many.
  LORA_DEVICE int32_t TieOf(uint32_t key, int64_t tie) const {
    if (tie == 0) {
      int32_t first = kNoToken;
      ForTokens([&](int64_t i, uint32_t k) {
        if (k == key) first = MinToken()(first, static_cast<int32_t>(i));
      });
      return Reduce(first, MinToken());
    }
    int32_t found = kNoToken;
    int64_t seen = 0;
    for (int64_t begin = 0; begin < vocab && seen <= tie; begin += kThreads) {
      const int64_t i = begin + ThreadIndex();
      const bool has = i < vocab && KeyOfLogit(ToFloat(logits[i])) == key;
      const Prefix<int32_t> prefix =
          BlockPrefixSum<kThreads>(has ? 1 : 0, reinterpret_cast<int32_t*>(groups));
      if (has && seen + prefix.before == tie) found = static_cast<int32_t>(i);
      seen += prefix.total;
    }
    return Reduce(found, MinToken());
  }
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(SampleDrawParams<T>::kThreads, SampleDrawParams<T>::kMinBlocks)
    SampleDraw(const LORA_GRID_CONSTANT SampleDrawParams<T> p) {
  using P = SampleDrawParams<T>;
  LORA_DYNAMIC_SHARED(shared);
  double* sums = reinterpret_cast<double*>(shared);
  const int64_t row = BlockX();
  const LogitScan& scan = p.row_scans[row];
  if (scan.first_bad != kNoToken || scan.best == kNoToken || scan.state != RowState::kDrawn ||
      p.options.temperature(row) == 0) {
    return;
  }
  SampledRow<T> r{
      p.logits + row * p.vocab, p.weights + row * p.vocab, p.vocab,
      p.lists + row * p.vocab,  sums + ThreadIndex(),      sums + P::kGroups * P::kThreads};
  const double u =
      UniformFromWord(Philox4x32(p.options.seed(row), {p.options.step(row), 0, 0, kSampleTag})[0]);
  const double top_p = p.options.top_p(row), min_p = p.options.min_p(row);
  const int64_t top_k = p.options.top_k(row) < p.vocab ? p.options.top_k(row) : 0;
  // exp errs by 1 ulp on the host and here, and a sum of n weights by n·2⁻⁵³ in any order. The
  // target is a part of a sum and errs as much as the sum that it is compared with.
  const double error = static_cast<double>(p.vocab + 8) * (1.0 / (uint64_t{1} << 51));
  const bool limits = top_k > 0 || top_p < 1 || min_p > 0;
  bool certain = true;
  double total;
  if (top_k > 0) {
    const Passing last =
        r.template Pass<Order::kByLogit, true>(static_cast<double>(top_k) - 0.5, 0);
    total = r.SumBelow(last.key) + (last.ties + 1) * r.weights[last.first];
  } else {
    total = r.SumBelow(uint64_t{1} << 32);
  }
  if (top_p < 1) {
    const Passing last = r.template Pass<Order::kByLogit, false>(top_p * total, error * total);
    certain = last.certain;
    total = last.sum();
  }
  if (min_p > 0) {
    // Both limits keep a beginning of the order, and the shorter one has the smaller sum.
    const double kept = r.SumFrom(min_p);
    if (kept < total) total = kept;
    certain = certain && !r.HasWeightNear(min_p);
  }
  Passing drawn;
  if (limits) {
    drawn = r.template Pass<Order::kByLogit, false>(u * total, error * total);
  } else {
    drawn = r.template Pass<Order::kById, false>(u * total, error * total);
  }
  int32_t token = drawn.first;
  if (drawn.ties > 0) token = r.TieOf(drawn.key, static_cast<int64_t>(drawn.ties));
  if (ThreadIndex() != 0) return;
  p.ids[row] = token;
  p.row_scans[row].id = token;
  if (!certain || !drawn.certain || token == kNoToken)
    p.row_scans[row].state = RowState::kUncertain;
}

}  // namespace lora::device
