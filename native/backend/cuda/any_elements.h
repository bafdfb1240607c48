// Passes operands of any float dtype to device/any_elements.cuh. Only .cu files include this.
#pragma once

#include "backend/cuda/device/any_elements.cuh"
#include "core/error.h"
#include "core/ops/tensor_view.h"

namespace lora::cuda {

inline void RequireFloat(const char* op, DType dtype) {
  if (dtype != DType::kF32 && dtype != DType::kBF16 && dtype != DType::kF16)
    Throw("ERR_UNSUPPORTED", op, "no kernel for dtype ", NameOf(dtype));
}

inline device::AnyInput Input(const char* op, const TensorView& view) {
  RequireFloat(op, view.dtype);
  return {view.data, view.dtype};
}
inline device::AnyOutput Output(const char* op, const TensorView& view) {
  RequireFloat(op, view.dtype);
  return {view.data, view.dtype};
}

}  // namespace lora::cuda
