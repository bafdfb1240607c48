// p ← p·(1 − lr·decay)
// m ← β1·m + (1−β1)·g
// v ← β2·v + (1−β2)·g²
// p ← p − lr/(1−β1^step)·m / (√(v/(1−β2^step)) + eps)
// One launch updates all parameters. A thread takes four elements at a time: it reads 16 bytes of
// each of p, g, m and v and writes 16 of p, m and v.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/segments.cuh"

namespace lora::device {

// The numbers of one step that are the same for every element.
struct AdamWFactors {
  float decay;              // 1 − lr·weight_decay
  float beta1, new1;        // β1, 1 − β1
  float beta2, new2;        // β2, 1 − β2
  float rsqrt_correction2;  // 1/√(1 − β2^step)
  float eps;
  float step_size;  // lr/(1 − β1^step)
};

struct AdamWParams {
  static constexpr int kThreads = 256, kMinBlocks = 4, kPerBlock = 4096;
  enum { kParam, kGrad, kM, kV };
  SegmentList<4, 80> list;
  AdamWFactors factors;
};
static_assert(sizeof(AdamWParams) <= 4096);

LORA_KERNEL void LORA_LAUNCH_BOUNDS(AdamWParams::kThreads, AdamWParams::kMinBlocks)
    AdamW(const LORA_GRID_CONSTANT AdamWParams params) {
  using P = AdamWParams;
  const AdamWFactors& f = params.factors;
  const Piece piece = PieceOf<P::kPerBlock>(params.list, static_cast<uint32_t>(BlockX()));
  const auto& segment = params.list.segments[piece.index];
  float* const param = segment.data[P::kParam];
  const float* const grad = segment.data[P::kGrad];
  float* const ms = segment.data[P::kM];
  float* const vs = segment.data[P::kV];
  for (int64_t i = piece.begin + ThreadIndex() * 4; i < piece.end; i += P::kThreads * 4) {
    float p[4], g[4], m[4], v[4];
    LoadElements(p, param, i, segment.count);
    LoadElements(g, grad, i, segment.count);
    LoadElements(m, ms, i, segment.count);
    LoadElements(v, vs, i, segment.count);
    LORA_UNROLL
    for (int j = 0; j < 4; ++j) {
      m[j] = f.beta1 * m[j] + f.new1 * g[j];
      v[j] = f.beta2 * v[j] + f.new2 * g[j] * g[j];
      const float ratio = m[j] / (Sqrt(v[j]) * f.rsqrt_correction2 + f.eps);
      p[j] = f.decay * p[j] - f.step_size * ratio;
    }
    StoreElements(param, i, segment.count, p);
    StoreElements(ms, i, segment.count, m);
    StoreElements(vs, i, segment.count, v);
  }
}

}  // namespace lora::device
