// y = f(gate)·u(up), dup = g·f(gate)·u'(up) and dgate = g·u(up)·f'(gate), by the formulas of
// core/maths/kinds.h. All threads take the branch of one kind, and a thread one vector of 16 bytes
// of each operand.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/kinds.cuh"
#include "backend/cuda/device/launch.h"

namespace lora::device {

template <class T>
struct GatedParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr int kPerThread = 16 / sizeof(T);
  const T *gate, *up;
  T* y;
  int64_t count;
  GatedKind kind;
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(GatedParams<T>::kThreads, GatedParams<T>::kMinBlocks)
    Gated(const LORA_GRID_CONSTANT GatedParams<T> p) {
  constexpr int kPerThread = GatedParams<T>::kPerThread;
  const int64_t first = GlobalIndex<GatedParams<T>::kThreads>() * kPerThread;
  float gate[kPerThread], up[kPerThread];
  LoadElements(gate, p.gate, first, p.count);
  LoadElements(up, p.up, first, p.count);
  gated::ForKind(p.kind, [&]<class Kind>() {
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j) {
      const auto at = Kind::At(gate[j]);
      up[j] = Kind::Up(up[j]) * (at.z * at.s);
    }
  });
  StoreElements(p.y, first, p.count, up);
}

template <class T>
struct GatedBackwardParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr int kPerThread = 16 / sizeof(T);
  const T *gate, *up, *g;
  T *dgate, *dup;
  T* y;  // may be g, or null
  int64_t count;
  GatedKind kind;
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(GatedBackwardParams<T>::kThreads,
                                    GatedBackwardParams<T>::kMinBlocks)
    GatedBackward(const LORA_GRID_CONSTANT GatedBackwardParams<T> p) {
  constexpr int kPerThread = GatedBackwardParams<T>::kPerThread;
  const int64_t first = GlobalIndex<GatedBackwardParams<T>::kThreads>() * kPerThread;
  float gate[kPerThread], up[kPerThread], g[kPerThread];
  LoadElements(gate, p.gate, first, p.count);
  LoadElements(up, p.up, first, p.count);
  LoadElements(g, p.g, first, p.count);
  gated::ForKind(p.kind, [&]<class Kind>() {
    LORA_UNROLL
    for (int j = 0; j < kPerThread; ++j) {
      const auto at = Kind::At(gate[j]);
      const float gs = g[j] * at.s, factor = Kind::Up(up[j]);
      g[j] = Kind::UpGradient(up[j], gs * at.z);
      gate[j] = gs * factor * at.slope;
      up[j] = factor * (at.z * at.s);
    }
  });
  StoreElements(p.dgate, first, p.count, gate);
  StoreElements(p.dup, first, p.count, g);
  if (p.y) StoreElements(p.y, first, p.count, up);
}

}  // namespace lora::device
