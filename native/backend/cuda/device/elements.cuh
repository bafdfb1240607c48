// Moves runs of consecutive elements between global memory and f32 registers, with one access of 16
// bytes where the address allows it, else element by element.
#pragma once

#include "backend/cuda/device/primitives.h"

namespace lora::device {

// Two f32 that one access of 8 bytes moves.
struct alignas(8) FloatPair {
  float low, high;
};

LORA_DEVICE bool IsAligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Return element j of a vector of T, and word w of a vector made of values[first …].
template <class T>
LORA_DEVICE float FloatOf(const Vec16& raw, int j) {
  if constexpr (sizeof(T) == 4) {
    return BitsToFloat(raw.words[j]);
  } else {
    return ToFloat(T{static_cast<uint16_t>(raw.words[j / 2] >> (j % 2 * 16))});
  }
}
template <class T, int N>
LORA_DEVICE uint32_t WordOf(const float (&values)[N], int first, int w) {
  if constexpr (sizeof(T) == 4) {
    return FloatToBits(values[first + w]);
  } else {
    return Pack(FromFloat<T>(values[first + 2 * w]), FromFloat<T>(values[first + 2 * w + 1]));
  }
}

// values[j] = x[first + j], or 0 from `count` on.
template <class T, int N>
LORA_DEVICE void LoadElements(float (&values)[N], const T* x, int64_t first, int64_t count) {
  static_assert(N * sizeof(T) % 16 == 0);
  constexpr int kPerVector = 16 / sizeof(T);
  if (first + N <= count && IsAligned16(x + first)) {
    LORA_UNROLL
    for (int v = 0; v < N / kPerVector; ++v) {
      const Vec16 raw = LoadGlobal16(x + first + v * kPerVector);
      LORA_UNROLL
      for (int j = 0; j < kPerVector; ++j) values[v * kPerVector + j] = FloatOf<T>(raw, j);
    }
  } else {
    LORA_UNROLL
    for (int j = 0; j < N; ++j) values[j] = first + j < count ? ToFloat(x[first + j]) : 0.0f;
  }
}

// y[first + j] = values[j] below `count`, each rounded once.
template <class T, int N>
LORA_DEVICE void StoreElements(T* y, int64_t first, int64_t count, const float (&values)[N]) {
  static_assert(N * sizeof(T) % 16 == 0);
  constexpr int kPerVector = 16 / sizeof(T);
  if (first + N <= count && IsAligned16(y + first)) {
    LORA_UNROLL
    for (int v = 0; v < N / kPerVector; ++v) {
      Vec16 raw;
      LORA_UNROLL
      for (int w = 0; w < 4; ++w) raw.words[w] = WordOf<T>(values, v * kPerVector, w);
      StoreGlobal16(y + first + v * kPerVector, raw);
    }
  } else {
    LORA_UNROLL
    for (int j = 0; j < N; ++j)
      if (first + j < count) y[first + j] = FromFloat<T>(values[j]);
  }
}

}  // namespace lora::device
