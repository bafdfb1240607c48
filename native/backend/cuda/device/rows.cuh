// A row of any length at any address as vectors of N elements, N·size a multiple of 16 bytes. The
// first vector begins at the last multiple of 16 bytes at or before the row, so that all between
// the first and the last one are loaded 16 bytes at a time wherever the row lies.
#pragma once

#include "backend/cuda/device/elements.cuh"

namespace lora::device {

// Where the first vector begins: 0, or a little below.
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

// row[first + j] = values[j] where that is in [0, count).
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

}  // namespace lora::device
