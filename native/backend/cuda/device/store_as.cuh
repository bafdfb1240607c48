// Stores a float to a matrix whose dtype is known at run time only.
#pragma once

#include "backend/cuda/device/primitives.h"

namespace lora::device {

enum class StoredDType : int { kF32, kBF16, kF16 };

LORA_DEVICE void StoreAs(StoredDType dtype, void* to, int64_t index, float value) {
  if (dtype == StoredDType::kF32) {
    static_cast<float*>(to)[index] = value;
  } else if (dtype == StoredDType::kBF16) {
    const BF16 rounded = FromFloat<BF16>(value);
    static_cast<BF16*>(to)[index] = rounded;
  } else {
    const F16 rounded = FromFloat<F16>(value);
    static_cast<F16*>(to)[index] = rounded;
  }
}

}  // namespace lora::device
