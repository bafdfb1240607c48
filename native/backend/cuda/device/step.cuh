// An optimizer's step over parameters, their gradients and their state. One launch updates many
// parameters. A thread takes four elements at a time: it reads 16 bytes of each tensor and writes
// 16 of each but the gradient.
//
// A rule names its tensors (kTensors of them: the parameter, the gradient, the state) and updates
// one element of each in place: rule(e).
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/segments.cuh"
#include "core/ops/step_factors.h"

namespace lora::device {

enum { kStepParam, kStepGrad, kStepState };

template <class Rule>
struct StepParams {
  static constexpr int kThreads = 256, kMinBlocks = 4, kPerBlock = 4096;
  static constexpr int kCapacity = 3840 / (8 * Rule::kTensors + 12) / 2 * 2;
  SegmentList<Rule::kTensors, kCapacity> list;
  Rule rule;
};

template <class Rule>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(StepParams<Rule>::kThreads, StepParams<Rule>::kMinBlocks)
    Step(const LORA_GRID_CONSTANT StepParams<Rule> params) {
  using P = StepParams<Rule>;
  static_assert(sizeof(P) <= 4096 && sizeof(Rule) % 8 == 0);
  constexpr int kTensors = Rule::kTensors;
  const Piece piece = PieceOf<P::kPerBlock>(params.list, static_cast<uint32_t>(BlockX()));
  const auto& segment = params.list.segments[piece.index];
  for (int64_t i = piece.begin + ThreadIndex() * 4; i < piece.end; i += P::kThreads * 4) {
    float x[kTensors][4];
    LORA_UNROLL
    for (int t = 0; t < kTensors; ++t) LoadElements(x[t], segment.data[t], i, segment.count);
    LORA_UNROLL
    for (int j = 0; j < 4; ++j) {
      float e[kTensors];
      LORA_UNROLL
      for (int t = 0; t < kTensors; ++t) e[t] = x[t][j];
      params.rule(e);
      LORA_UNROLL
      for (int t = 0; t < kTensors; ++t) x[t][j] = e[t];
    }
    LORA_UNROLL
    for (int t = 0; t < kTensors; ++t)
      if (t != kStepGrad) StoreElements(segment.data[t], i, segment.count, x[t]);
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
