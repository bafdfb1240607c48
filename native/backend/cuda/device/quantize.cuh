// Quantizes groups of values that share a scale (core/maths/quantize.h): one kernel for the
// magnitudes, of which a warp takes a group, and one for the values, of which a thread takes eight.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/reduce.cuh"
#include "core/maths/quantize.h"

namespace lora::device {

template <class T>
struct QuantizeParams {
  static constexpr int kThreads = 256, kMinBlocks = 2;
  static constexpr int kGroupsPerBlock = kThreads / 32, kPerThread = 8;
  const T* x;
  uint8_t* values;  // int8, or two codes each
  float* magnitudes;
  int64_t count, group, groups;
  CodeOrder order;
  uint32_t has_codes;
  uint32_t padding = 0;  // kernels take structs of whole 8 bytes
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(QuantizeParams<T>::kThreads, QuantizeParams<T>::kMinBlocks)
    GroupMagnitudes(const LORA_GRID_CONSTANT QuantizeParams<T> p) {
  const int64_t g = int64_t{BlockX()} * QuantizeParams<T>::kGroupsPerBlock + WarpIndex();
  if (g >= p.groups) return;
  const int64_t begin = g * p.group;
  const int64_t end = begin + p.group < p.count ? begin + p.group : p.count;
  uint32_t bits = 0;
  for (int64_t i = begin + LaneIndex(); i < end; i += 32)
    bits = Max()(bits, FloatToBits(ToFloat(p.x[i])) & 0x7fffffffu);
  bits = WarpMax(bits);
  if (LaneIndex() == 0) p.magnitudes[g] = BitsToFloat(bits < 0x7f800000u ? bits : 0x7fc00000u);
}

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(QuantizeParams<T>::kThreads, QuantizeParams<T>::kMinBlocks)
    QuantizeValues(const LORA_GRID_CONSTANT QuantizeParams<T> p) {
  constexpr int kPerThread = QuantizeParams<T>::kPerThread;
  const int64_t first =
      (int64_t{BlockX()} * QuantizeParams<T>::kThreads + ThreadIndex()) * kPerThread;
  if (first >= p.count) return;
  float x[kPerThread];
  LoadElements(x, p.x, first, p.count);
  uint32_t bytes[kPerThread];
  LORA_UNROLL
  for (int j = 0; j < kPerThread; ++j) {
    const int64_t i = first + j < p.count ? first + j : p.count - 1;
    const float magnitude = p.magnitudes[i / p.group];
    const float u = magnitude == magnitude ? OverMagnitude(x[j], 1.0f / magnitude) : 0.0f;
    // A sum of this size has no bits for fractions; its own lowest are those of the integer.
    bytes[j] =
        p.has_codes != 0 ? CodeOf(p.order, u) : FloatToBits(u * kInt8Range + 0x1.8p23f) & 0xffu;
  }
  if (p.has_codes == 0) {
    for (int j = 0; j < kPerThread && first + j < p.count; ++j)
      p.values[first + j] = static_cast<uint8_t>(bytes[j]);
  } else {
    for (int j = 0; j < kPerThread && first + j < p.count; j += 2) {
      const uint32_t low = first + j + 1 < p.count ? bytes[j + 1] : 0;
      p.values[(first + j) / 2] = static_cast<uint8_t>(bytes[j] << 4 | low);
    }
  }
}

}  // namespace lora::device
