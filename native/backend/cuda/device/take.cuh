// y[o, i, j] = x[o, at, j] with at = index[i], or index[o, i, j] where each line has places of its
// own.
//
// Take: bit for bit; U is an unsigned integer as large as an element. A thread copies one element.
//
// TakeBackward: dx[o, at, j] += g[o, i, j]. A thread has a line (o, j) and adds in rising order of
// i: no two threads write one element.
#pragma once

#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/launch.h"

namespace lora::device {

template <class U>
struct TakeParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  const U* x;
  const int32_t* index;
  U* y;
  int64_t count;  // elements of y
  int64_t length, inner, taken;
  bool shared;
};

template <class U>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(TakeParams<U>::kThreads, TakeParams<U>::kMinBlocks)
    Take(const LORA_GRID_CONSTANT TakeParams<U> p) {
  const int64_t to = GlobalIndex<TakeParams<U>::kThreads>();
  if (to >= p.count) return;
  const auto [row, column] = Divide(to, p.inner);
  const auto [outer, i] = Divide(row, p.taken);
  const int64_t at = p.index[p.shared ? i : to];
  p.y[to] = p.x[(outer * p.length + at) * p.inner + column];
}

struct TakeBackwardParams {
  static constexpr int kThreads = 128, kMinBlocks = 8;
  const float* g;
  const int32_t* index;
  float* dx;
  int64_t lines;
  int64_t length, inner, taken;
  bool shared;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(TakeBackwardParams::kThreads, TakeBackwardParams::kMinBlocks)
    TakeBackward(const LORA_GRID_CONSTANT TakeBackwardParams p) {
  const int64_t line = GlobalIndex<TakeBackwardParams::kThreads>();
  if (line >= p.lines) return;
  const auto [outer, column] = Divide(line, p.inner);
  float* dx = p.dx + outer * p.length * p.inner + column;
  for (int64_t i = 0; i < p.taken; ++i) {
    const int64_t from = (outer * p.taken + i) * p.inner + column;
    dx[p.index[p.shared ? i : from] * p.inner] += p.g[from];
  }
}

}  // namespace lora::device
