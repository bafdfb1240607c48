// Does what elements.cuh does, for a dtype that is known at run time only. Every thread takes the
// same branch, and one kernel serves all mixtures of dtypes.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "core/maths/dtype.h"

namespace lora::device {

struct AnyInput {
  const void* data;
  DType dtype;  // a float type of at most 4 bytes
};
struct AnyOutput {
  void* data;
  DType dtype;
};

// values[j] = x[first + j], or 0 from `count` on.
template <int N>
LORA_DEVICE void LoadElements(float (&values)[N], const AnyInput& x, int64_t first, int64_t count) {
  if (x.dtype == DType::kF32) {
    LoadElements(values, static_cast<const float*>(x.data), first, count);
  } else if (x.dtype == DType::kBF16) {
    LoadElements(values, static_cast<const BF16*>(x.data), first, count);
  } else {
    LoadElements(values, static_cast<const F16*>(x.data), first, count);
  }
}

template <int N>
LORA_DEVICE void StoreElements(const AnyOutput& y, int64_t first, int64_t count,
                               const float (&values)[N]) {
  if (y.dtype == DType::kF32) {
    StoreElements(static_cast<float*>(y.data), first, count, values);
  } else if (y.dtype == DType::kBF16) {
    StoreElements(static_cast<BF16*>(y.data), first, count, values);
  } else {
    StoreElements(static_cast<F16*>(y.data), first, count, values);
  }
}

// Four consecutive elements as they lie in memory: a word for each f32, or elements of 16 bits in
// pairs in words 0 and 1. A kernel widens them when it uses them, so that its next loads need not
// wait for these.
struct RawFour {
  uint32_t words[4];
};

// Loads x[first … first + 3], with zeros from `count` on. `aligned`: x[first] is at a multiple of
// the four elements' bytes.
LORA_DEVICE RawFour LoadFour(const AnyInput& x, int64_t first, int64_t count, bool aligned) {
  RawFour raw{{0, 0, 0, 0}};
  const bool whole = aligned && first + 4 <= count;
  if (x.dtype == DType::kF32) {
    const float* const from = static_cast<const float*>(x.data) + first;
    if (whole) {
      const Vec16 v = LoadGlobal16(from);
      LORA_UNROLL
      for (int j = 0; j < 4; ++j) raw.words[j] = v.words[j];
    } else {
      LORA_UNROLL
      for (int j = 0; j < 4; ++j)
        if (first + j < count) raw.words[j] = FloatToBits(from[j]);
    }
  } else {
    const uint16_t* const from = static_cast<const uint16_t*>(x.data) + first;
    if (whole) {
      const Vec8 v = LoadGlobal8(from);
      raw.words[0] = v.words[0];
      raw.words[1] = v.words[1];
    } else {
      LORA_UNROLL
      for (int j = 0; j < 4; ++j)
        if (first + j < count) raw.words[j / 2] |= uint32_t{from[j]} << (j % 2 * 16);
    }
  }
  return raw;
}

// Makes each word an f32.
LORA_DEVICE void Widen(RawFour& raw, DType dtype) {
  if (dtype == DType::kF32) return;
  const uint32_t low = raw.words[0], high = raw.words[1];
  const auto half = [dtype](uint32_t word, int place) {
    if (dtype == DType::kBF16) return place == 0 ? word << 16 : word & 0xffff0000u;
    return FloatToBits(ToFloat(F16{static_cast<uint16_t>(word >> (place * 16))}));
  };
  raw = {{half(low, 0), half(low, 1), half(high, 0), half(high, 1)}};
}

LORA_DEVICE float LoadElement(const AnyInput& x, int64_t i) {
  if (x.dtype == DType::kF32) return static_cast<const float*>(x.data)[i];
  if (x.dtype == DType::kBF16) return ToFloat(static_cast<const BF16*>(x.data)[i]);
  return ToFloat(static_cast<const F16*>(x.data)[i]);
}

LORA_DEVICE void StoreElement(const AnyOutput& y, int64_t i, float value) {
  if (y.dtype == DType::kF32) {
    static_cast<float*>(y.data)[i] = value;
  } else if (y.dtype == DType::kBF16) {
    static_cast<BF16*>(y.data)[i] = FromFloat<BF16>(value);
  } else {
    static_cast<F16*>(y.data)[i] = FromFloat<F16>(value);
  }
}

}  // namespace lora::device
