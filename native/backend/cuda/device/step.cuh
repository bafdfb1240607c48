// An optimizer's step over parameters, their gradients and their state. One launch updates many
// parameters. A thread takes four elements at a time: it reads 16 bytes of each tensor and writes
// 16 of each but the gradient. With parameters of bf16 it takes eight, for which one Philox call
// has the random bits.
//
// A rule names its tensors (kTensors of them: the parameter, the gradient, the state) and updates
// one element of each in place: rule(e).
#pragma once

#include <type_traits>

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/segments.cuh"
#include "core/maths/stochastic_rounding.h"
#include "core/ops/step_factors.h"

namespace lora::device {

enum { kStepParam, kStepGrad, kStepState };

// A segment whose parameter is bf16 (data[kStepParam] is its address all the same), with the
// counters of its rounding.
template <int kTensors>
struct RoundedSegment {
  float* data[kTensors];
  int64_t count;
  uint64_t seed;
  uint32_t parameter, step;
};
template <int kTensors, bool kRounded>
using StepSegment = std::conditional_t<kRounded, RoundedSegment<kTensors>, PlainSegment<kTensors>>;

// Loads and stores N elements of a segment's parameter from element i on.
template <int N, int kTensors>
LORA_DEVICE void LoadParam(float (&p)[N], const PlainSegment<kTensors>& segment, int64_t i) {
  LoadElements(p, segment.data[kStepParam], i, segment.count);
}
template <int N, int kTensors>
LORA_DEVICE void StoreParam(const PlainSegment<kTensors>& segment, int64_t i, const float (&p)[N]) {
  StoreElements(segment.data[kStepParam], i, segment.count, p);
}
template <int kTensors>
LORA_DEVICE void LoadParam(float (&p)[8], const RoundedSegment<kTensors>& segment, int64_t i) {
  LoadElements(p, reinterpret_cast<const BF16*>(segment.data[kStepParam]), i, segment.count);
}
// Rounds stochastically; i is a multiple of 8, for which one Philox call has the random bits.
template <int kTensors>
LORA_DEVICE void StoreParam(const RoundedSegment<kTensors>& segment, int64_t i,
                            const float (&p)[8]) {
  const PhiloxWords random =
      RoundingWords(segment.seed, segment.parameter, segment.step, static_cast<uint64_t>(i) / 8);
  BF16 rounded[8];
  LORA_UNROLL
  for (int j = 0; j < 8; ++j)
    rounded[j].bits = RoundStochastically(FloatToBits(p[j]), RoundingBits(random, j));
  BF16* const y = reinterpret_cast<BF16*>(segment.data[kStepParam]) + i;
  if (i + 8 <= segment.count && IsAligned16(y)) {
    Vec16 raw;
    LORA_UNROLL
    for (int w = 0; w < 4; ++w) raw.words[w] = Pack(rounded[2 * w], rounded[2 * w + 1]);
    StoreGlobal16(y, raw);
  } else {
    LORA_UNROLL
    for (int j = 0; j < 8; ++j)
      if (i + j < segment.count) y[j] = rounded[j];
  }
}

template <class Rule, bool kRounded>
struct StepParams {
  static constexpr int kThreads = 256, kMinBlocks = 4, kPerBlock = 4096;
  static constexpr int kPerThread = kRounded ? 8 : 4;
  using Segment = StepSegment<Rule::kTensors, kRounded>;
  static constexpr int kCapacity = 3840 / static_cast<int>(sizeof(Segment) + 4) / 2 * 2;
  SegmentList<Segment, kCapacity> list;
  Rule rule;
};

template <class Rule, bool kRounded>
LORA_KERNEL void LORA_LAUNCH_BOUNDS((StepParams<Rule, kRounded>::kThreads),
                                    (StepParams<Rule, kRounded>::kMinBlocks))
    Step(const LORA_GRID_CONSTANT StepParams<Rule, kRounded> params) {
  using P = StepParams<Rule, kRounded>;
  static_assert(sizeof(P) <= 4096 && sizeof(Rule) % 8 == 0);
  constexpr int kTensors = Rule::kTensors, kPerThread = P::kPerThread;
  const Piece piece = PieceOf<P::kPerBlock>(params.list, static_cast<uint32_t>(BlockX()));
  const auto& segment = params.list.segments[piece.index];
  for (int64_t i = piece.begin + ThreadIndex() * kPerThread; i < piece.end;
       i += P::kThreads * kPerThread) {
    float x[kTensors][kPerThread];
    LoadParam(x[kStepParam], segment, i);
    LORA_UNROLL
    for (int t = kStepGrad; t < kTensors; ++t)
      LoadElements(x[t], segment.data[t], i, segment.count);
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j) {
      float e[kTensors];
      LORA_UNROLL
      for (int t = 0; t < kTensors; ++t) e[t] = x[t][j];
      params.rule(e);
      LORA_UNROLL
      for (int t = 0; t < kTensors; ++t) x[t][j] = e[t];
    }
    StoreParam(segment, i, x[kStepParam]);
    LORA_UNROLL
    for (int t = kStepState; t < kTensors; ++t)
      StoreElements(segment.data[t], i, segment.count, x[t]);
  }
}

// m ← β1·m + (1−β1)·g;  v ← β2·v + (1−β2)·g²
// p ← p·(1 − lr·decay) − lr/(1−β1^step)·m / (√(v/(1−β2^step)) + eps)
struct AdamWRule {
  static constexpr int kTensors = 4;
  AdamWFactors f;

  LORA_DEVICE void operator()(float (&e)[kTensors]) const {
    float &p = e[kStepParam], &m = e[kStepState], &v = e[kStepState + 1];
    const float g = e[kStepGrad];
    m = f.beta1 * m + f.new1 * g;
    v = f.beta2 * v + f.new2 * g * g;
    p = f.decay * p - f.step_size * (m / (Sqrt(v) * f.rsqrt_correction2 + f.eps));
  }
};

// g ← g + decay·p;  v ← μ·v + g, or v ← g without a velocity
// p ← p − lr·v, or p ← p − lr·(g + μ·v) with nesterov
template <bool kVelocity>
struct SgdRule {
  static constexpr int kTensors = kVelocity ? 3 : 2;
  SgdFactors f;

  LORA_DEVICE void operator()(float (&e)[kTensors]) const {
    float& p = e[kStepParam];
    const float g = e[kStepGrad] + f.weight_decay * p;
    float direction = g;
    if constexpr (kVelocity) {
      float& v = e[kStepState];
      v = f.momentum * v + g;
      direction = f.nesterov != 0 ? g + f.momentum * v : v;
    }
    p -= f.lr * direction;
  }
};

// p ← p·(1 − lr·decay) − lr·sign(β1·m + (1−β1)·g);  m ← β2·m + (1−β2)·g
struct LionRule {
  static constexpr int kTensors = 3;
  LionFactors f;

  LORA_DEVICE void operator()(float (&e)[kTensors]) const {
    float &p = e[kStepParam], &m = e[kStepState];
    const float g = e[kStepGrad];
    const float blend = f.blend * m + f.blend_new * g;
    const float sign = blend > 0 ? 1.0f : blend < 0 ? -1.0f : blend;  // 0 and NaN are their own
    p = f.decay * p - f.lr * sign;
    m = f.momentum * m + f.momentum_new * g;
  }
};

}  // namespace lora::device
