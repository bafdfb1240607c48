// Rotates x [b, s, heads, 2·half]. With x1, x2 the halves of a head and cos, sin of its position:
//   y1 = x1·cos − x2·sin
//   y2 = x2·cos + x1·sin
// The inverse uses −sin. A thread takes 16 bytes of both halves and uses the same cos and sin for
// up to kHeads heads of a token. y may be x.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/launch.h"

namespace lora::device {

template <class T>
struct RopeParams {
  static constexpr int kThreads = 256, kMinBlocks = 3;
  static constexpr int kPerThread = 16 / sizeof(T), kHeads = 4;
  const T* x;
  const float *cos, *sin;
  const int32_t* positions;  // or null: offset + index in the sequence
  T* y;
  int64_t tokens, sequence, heads, half, offset;
  float sign;  // of sin
  LORA_HOST_DEVICE int64_t chunks() const { return (half + kPerThread - 1) / kPerThread; }
  LORA_HOST_DEVICE int64_t groups() const { return (heads + kHeads - 1) / kHeads; }
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(RopeParams<T>::kThreads, RopeParams<T>::kMinBlocks)
    Rope(const LORA_GRID_CONSTANT RopeParams<T> p) {
  constexpr int kPerThread = RopeParams<T>::kPerThread, kHeads = RopeParams<T>::kHeads;
  const auto [place, chunk] = Divide(GlobalIndex<RopeParams<T>::kThreads>(), p.chunks());
  const auto [token, group] = Divide(place, p.groups());
  if (token >= p.tokens) return;
  const int64_t position =
      p.positions ? p.positions[token] : p.offset + Divide(token, p.sequence).remainder;
  const int64_t first = chunk * kPerThread;
  float cos[kPerThread], sin[kPerThread];
  LoadElements(cos, p.cos, position * p.half + first, (position + 1) * p.half);
  LoadElements(sin, p.sin, position * p.half + first, (position + 1) * p.half);
  LORA_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    const int64_t head = group * kHeads + h;
    if (head >= p.heads) return;
    const int64_t at = (token * p.heads + head) * 2 * p.half;
    float x1[kPerThread], x2[kPerThread];
    LoadElements(x1, p.x, at + first, at + p.half);
    LoadElements(x2, p.x, at + p.half + first, at + 2 * p.half);
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j) {
      const float s = sin[j] * p.sign, y1 = x1[j] * cos[j] - x2[j] * s;
      x2[j] = x2[j] * cos[j] + x1[j] * s;
      x1[j] = y1;
    }
    StoreElements(p.y, at + first, at + p.half, x1);
    StoreElements(p.y, at + p.half + first, at + 2 * p.half, x2);
  }
}

}  // namespace lora::device
