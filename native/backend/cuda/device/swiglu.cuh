// With s = σ(gate):
//   y     = gate·s·up
//   dup   = g·gate·s
//   dgate = g·up·s·(1 + gate·(1 − s))
// A thread takes one vector of 16 bytes of each operand.
#pragma once

#include "backend/cuda/device/activation.cuh"
#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/launch.h"

namespace lora::device {

template <class T>
struct SwigluParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr int kPerThread = 16 / sizeof(T);
  const T *gate, *up;
  T* y;
  int64_t count;
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(SwigluParams<T>::kThreads, SwigluParams<T>::kMinBlocks)
    Swiglu(const LORA_GRID_CONSTANT SwigluParams<T> p) {
  constexpr int kPerThread = SwigluParams<T>::kPerThread;
  const int64_t first = GlobalIndex<SwigluParams<T>::kThreads>() * kPerThread;
  float gate[kPerThread], up[kPerThread];
  LoadElements(gate, p.gate, first, p.count);
  LoadElements(up, p.up, first, p.count);
  LORA_UNROLL
  for (int j = 0; j < kPerThread; ++j) up[j] *= gate[j] * Sigmoid(gate[j]).s;
  StoreElements(p.y, first, p.count, up);
}

template <class T>
struct SwigluBackwardParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr int kPerThread = 16 / sizeof(T);
  const T *gate, *up, *g;
  T *dgate, *dup;
  T* y;  // may be g, or null
  int64_t count;
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(SwigluBackwardParams<T>::kThreads,
                                    SwigluBackwardParams<T>::kMinBlocks)
    SwigluBackward(const LORA_GRID_CONSTANT SwigluBackwardParams<T> p) {
  constexpr int kPerThread = SwigluBackwardParams<T>::kPerThread;
  const int64_t first = GlobalIndex<SwigluBackwardParams<T>::kThreads>() * kPerThread;
  float gate[kPerThread], up[kPerThread], g[kPerThread];
  LoadElements(gate, p.gate, first, p.count);
  LoadElements(up, p.up, first, p.count);
  LoadElements(g, p.g, first, p.count);
  LORA_UNROLL
  for (int j = 0; j < kPerThread; ++j) {
    const SigmoidParts sigmoid = Sigmoid(gate[j]);
    const float gs = g[j] * sigmoid.s, y = up[j] * (gate[j] * sigmoid.s);
    g[j] = gs * gate[j];
    gate[j] = gs * up[j] * Fma(gate[j], sigmoid.c, 1.0f);
    up[j] = y;
  }
  StoreElements(p.dgate, first, p.count, gate);
  StoreElements(p.dup, first, p.count, g);
  if (p.y) StoreElements(p.y, first, p.count, up);
}

}  // namespace lora::device
