// Routing of tokens to experts and rows in the order of experts (core/ops/experts.h).
//
// Route, RouteBackward: a thread for each token, whose logits lie in a few cache lines.
// RoutePlaces: a block for each expert counts the assignments of the experts before it and places
// its own; each thread takes neighboring assignments, so that rows keep their order.
// SpreadRows, CombineRows, RowDots: a block for each row of the result; a thread takes 8
// consecutive elements in turn.
#pragma once

#include "backend/cuda/device/any_elements.cuh"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/reduce.cuh"

namespace lora::device {

constexpr uint32_t kNaNBits = 0x7fc00000u;

LORA_DEVICE bool IsNaN(float x) { return x != x; }
// Whether a logit comes before another one, whatever their places.
LORA_DEVICE bool IsLarger(float x, float than) { return x > than || (IsNaN(than) && !IsNaN(x)); }

// The softmax of the logits of a token, over all of them or over those of some experts; an index
// outside of the experts is none.
struct RouteSoftmax {
  float largest, sum;
  LORA_DEVICE float Weight(float logit) const { return Exp(logit - largest) / sum; }
};
LORA_DEVICE RouteSoftmax SoftmaxOf(const float* logits, int64_t count, const int32_t* experts,
                                   int64_t k, bool among_chosen) {
  RouteSoftmax of{BitsToFloat(0xff800000u), 0.0f};
  const int64_t terms = among_chosen ? k : count;
  for (int64_t i = 0; i < terms; ++i) {
    const int64_t e = among_chosen ? experts[i] : i;
    if (e >= 0 && e < count) of.largest = Max()(of.largest, logits[e]);
  }
  for (int64_t i = 0; i < terms; ++i) {
    const int64_t e = among_chosen ? experts[i] : i;
    if (e >= 0 && e < count) of.sum += Exp(logits[e] - of.largest);
  }
  return of;
}

struct RouteParams {
  static constexpr int kThreads = 128, kMinBlocks = 4;
  const float* logits;  // [tokens, count]
  float* weights;       // [tokens, k]
  int32_t* experts;     // [tokens, k]
  int64_t tokens, count, k, among_chosen;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(RouteParams::kThreads, RouteParams::kMinBlocks)
    Route(const LORA_GRID_CONSTANT RouteParams p) {
  const int64_t token = int64_t{BlockX()} * RouteParams::kThreads + ThreadIndex();
  if (token >= p.tokens) return;
  const float* logits = p.logits + token * p.count;
  int32_t* experts = p.experts + token * p.k;
  int64_t last = -1;
  for (int64_t c = 0; c < p.k; ++c) {
    int64_t best = -1;
    for (int64_t e = 0; e < p.count; ++e) {
      const bool behind = last < 0 || IsLarger(logits[last], logits[e]) ||
                          (e > last && !IsLarger(logits[e], logits[last]));
      if (behind && (best < 0 || IsLarger(logits[e], logits[best]))) best = e;
    }
    experts[c] = static_cast<int32_t>(best);
    last = best;
  }
  const RouteSoftmax of = SoftmaxOf(logits, p.count, experts, p.k, p.among_chosen != 0);
  for (int64_t c = 0; c < p.k; ++c) p.weights[token * p.k + c] = of.Weight(logits[experts[c]]);
}

struct RoutePlacesParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(int32_t);
  const int32_t* experts;   // [m]
  int32_t *order, *places;  // [m]
  int32_t* offsets;         // [blocks + 1]
  int64_t m, count;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(RoutePlacesParams::kThreads, RoutePlacesParams::kMinBlocks)
    RoutePlaces(const LORA_GRID_CONSTANT RoutePlacesParams p) {
  constexpr int kThreads = RoutePlacesParams::kThreads;
  LORA_DYNAMIC_SHARED(shared);
  auto* const slots = reinterpret_cast<int32_t*>(shared);
  const int32_t expert = static_cast<int32_t>(BlockX());
  const int64_t part = (p.m + kThreads - 1) / kThreads, begin = ThreadIndex() * part;
  const int64_t end = begin + part < p.m ? begin + part : p.m;
  int32_t before = 0, own = 0;
  for (int64_t a = begin; a < end; ++a) {
    before += p.experts[a] < expert ? 1 : 0;
    own += p.experts[a] == expert ? 1 : 0;
  }
  const int32_t first = BlockSum<kThreads>(before, slots);
  const Prefix<int32_t> prefix = BlockPrefixSum<kThreads>(own, slots);
  int32_t row = first + prefix.before;
  for (int64_t a = begin; a < end; ++a) {
    if (p.experts[a] != expert) continue;
    p.order[row] = static_cast<int32_t>(a);
    p.places[a] = row++;
  }
  if (ThreadIndex() != 0) return;
  p.offsets[expert] = first;
  if (expert + 1 == p.count) p.offsets[p.count] = static_cast<int32_t>(p.m);
}

struct RouteBackwardParams {
  static constexpr int kThreads = 128, kMinBlocks = 4;
  const float* logits;     // [tokens, count]
  const int32_t* experts;  // [tokens, k]
  const float* g;          // [tokens, k]
  float* d_logits;         // [tokens, count]
  int64_t tokens, count, k, among_chosen;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(RouteBackwardParams::kThreads, RouteBackwardParams::kMinBlocks)
    RouteBackward(const LORA_GRID_CONSTANT RouteBackwardParams p) {
  const int64_t token = int64_t{BlockX()} * RouteBackwardParams::kThreads + ThreadIndex();
  if (token >= p.tokens) return;
  const float* logits = p.logits + token * p.count;
  const int32_t* experts = p.experts + token * p.k;
  const float* g = p.g + token * p.k;
  float* d = p.d_logits + token * p.count;
  const RouteSoftmax of = SoftmaxOf(logits, p.count, experts, p.k, p.among_chosen != 0);
  float total = 0.0f;
  for (int64_t c = 0; c < p.k; ++c) {
    const int64_t e = experts[c];
    if (e >= 0 && e < p.count) total = Fma(of.Weight(logits[e]), g[c], total);
  }
  for (int64_t e = 0; e < p.count; ++e)
    d[e] = p.among_chosen != 0 ? 0.0f : -of.Weight(logits[e]) * total;
  for (int64_t c = 0; c < p.k; ++c) {
    const int64_t e = experts[c];
    if (e >= 0 && e < p.count) d[e] = of.Weight(logits[e]) * (g[c] - total);
  }
}

struct SpreadRowsParams {
  static constexpr int kThreads = 128, kMinBlocks = 4, kPerThread = 8;
  AnyInput x;            // [m / k, d]
  const int32_t* order;  // [m]
  const float* weights;  // [m], or null
  AnyOutput y;           // [m, d]
  int64_t m, d, k;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(SpreadRowsParams::kThreads, SpreadRowsParams::kMinBlocks)
    SpreadRows(const LORA_GRID_CONSTANT SpreadRowsParams p) {
  using P = SpreadRowsParams;
  const int64_t row = BlockX(), a = p.order[row];
  const bool inside = a >= 0 && a < p.m;
  const int64_t from = inside ? a / p.k * p.d : 0;
  const float weight = !inside ? BitsToFloat(kNaNBits) : p.weights ? p.weights[a] : 1.0f;
  for (int64_t i = ThreadIndex() * P::kPerThread; i < p.d; i += P::kThreads * P::kPerThread) {
    float x[P::kPerThread];
    LoadElements(x, p.x, from + i, from + p.d);
    if (!inside || p.weights) {
      LORA_UNROLL
      for (int j = 0; j < P::kPerThread; ++j) x[j] *= weight;
    }
    StoreElements(p.y, row * p.d + i, (row + 1) * p.d, x);
  }
}

struct CombineRowsParams {
  static constexpr int kThreads = 128, kMinBlocks = 4, kPerThread = 8;
  AnyInput x;             // [m, d]
  const int32_t* places;  // [m]
  const float* weights;   // [m], or null
  AnyOutput y;            // [m / k, d]
  int64_t m, d, k;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(CombineRowsParams::kThreads, CombineRowsParams::kMinBlocks)
    CombineRows(const LORA_GRID_CONSTANT CombineRowsParams p) {
  using P = CombineRowsParams;
  const int64_t token = BlockX();
  for (int64_t i = ThreadIndex() * P::kPerThread; i < p.d; i += P::kThreads * P::kPerThread) {
    float sum[P::kPerThread] = {};
    for (int64_t a = token * p.k; a < (token + 1) * p.k; ++a) {
      const int64_t place = p.places[a];
      const bool inside = place >= 0 && place < p.m;
      const int64_t from = inside ? place * p.d : 0;
      const float weight = !inside ? BitsToFloat(kNaNBits) : p.weights ? p.weights[a] : 1.0f;
      float x[P::kPerThread];
      LoadElements(x, p.x, from + i, from + p.d);
      LORA_UNROLL
      for (int j = 0; j < P::kPerThread; ++j) sum[j] = Fma(weight, x[j], sum[j]);
    }
    StoreElements(p.y, token * p.d + i, (token + 1) * p.d, sum);
  }
}

struct RowDotsParams {
  static constexpr int kThreads = 128, kMinBlocks = 4, kPerThread = 8;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(float);
  AnyInput g;             // [m / k, d]
  AnyInput x;             // [m, d]
  const int32_t* places;  // [m]
  float* dots;            // [m]
  int64_t m, d, k;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(RowDotsParams::kThreads, RowDotsParams::kMinBlocks)
    RowDots(const LORA_GRID_CONSTANT RowDotsParams p) {
  using P = RowDotsParams;
  LORA_DYNAMIC_SHARED(shared);
  const int64_t a = BlockX(), place = p.places[a];
  const bool inside = place >= 0 && place < p.m;
  const int64_t from = inside ? place * p.d : 0, of = a / p.k * p.d;
  float sum = 0.0f;
  for (int64_t i = ThreadIndex() * P::kPerThread; i < p.d; i += P::kThreads * P::kPerThread) {
    float x[P::kPerThread], g[P::kPerThread];
    LoadElements(x, p.x, from + i, from + p.d);
    LoadElements(g, p.g, of + i, of + p.d);
    LORA_UNROLL
    for (int j = 0; j < P::kPerThread; ++j) sum = Fma(g[j], x[j], sum);
  }
  sum = BlockSum<P::kThreads>(sum, reinterpret_cast<float*>(shared));
  if (ThreadIndex() == 0) p.dots[a] = inside ? sum : BitsToFloat(kNaNBits);
}

}  // namespace lora::device
