// Views a row of any length at any address as vectors of N elements, where N·size is a multiple of
// 16 bytes. The first vector begins at the last multiple of 16 bytes at or before the row, so that
// all vectors between the first and the last are loaded 16 bytes at a time.
#pragma once

#include "backend/cuda/device/elements.cuh"

namespace lora::device {

// Returns where the first vector begins: at 0, or a little below.
template <class T>
LORA_DEVICE int64_t FirstVector(const T* row) {
  return -static_cast<int64_t>(reinterpret_cast<uintptr_t>(row) % 16 / sizeof(T));
}

// values[j] = row[first + j], or `fill` outside [0, count).
template <class T, int N>
LORA_DEVICE void LoadOfRow(float (&values)[N], const T* row, int64_t first, int64_t count,
                           float fill) {
  if (first >= 0 && first + N <= count) {
    LoadElements(values, row, first, count);
  } else {
    LORA_UNROLL
    for (int j = 0; j < N; ++j) {
      const int64_t i = first + j;
      values[j] = i >= 0 && i < count ? ToFloat(row[i]) : fill;
    }
  }
}

// row[first + j] = values[j] inside [0, count).
template <class T, int N>
LORA_DEVICE void StoreOfRow(T* row, int64_t first, int64_t count, const float (&values)[N]) {
  if (first >= 0 && first + N <= count) {
    StoreElements(row, first, count, values);
  } else {
    LORA_UNROLL
    for (int j = 0; j < N; ++j) {
      const int64_t i = first + j;
      if (i >= 0 && i < count) row[i] = FromFloat<T>(values[j]);
    }
  }
}

// to[j] ← from[j] for all j below count, by the kThreads threads of a block. T is storage
// and is not converted.
template <int kThreads, class T>
LORA_DEVICE void CopyRow(T* to, const T* from, int64_t count) {
  constexpr int kPerVector = 16 / sizeof(T);
  int64_t vectors = 0;
  if (IsAligned16(from) && IsAligned16(to)) {
    vectors = count / kPerVector;
    for (int64_t v = ThreadIndex(); v < vectors; v += kThreads)
      StoreGlobal16(to + v * kPerVector, LoadGlobal16(from + v * kPerVector));
  }
  for (int64_t i = vectors * kPerVector + ThreadIndex(); i < count; i += kThreads) to[i] = from[i];
}

}  // namespace lora::device
