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

LORA_DEVICE float LoadElement(const AnyInput& x, int64_t i) {
  if (x.dtype == DType::kF32) return static_cast<const float*>(x.data)[i];
  if (x.dtype == DType::kBF16) return ToFloat(static_cast<const BF16*>(x.data)[i]);
  return ToFloat(static_cast<const F16*>(x.data)[i]);
}

}  // namespace lora::device
