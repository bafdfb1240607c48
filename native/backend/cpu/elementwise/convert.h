// Converts whole rows from and to f32, for operands that several tasks read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/maths/dtype.h"

namespace lora::cpu {

// dst [n] ← src [n] of f32, bf16 or f16, exactly.
void ConvertToF32(const void* src, DType dtype, size_t n, float* dst);
// dst [n] of f32, bf16 or f16 ← src [n], rounded to nearest even.
void ConvertFromF32(const float* src, size_t n, void* dst, DType dtype);

// Throw ERR_UNSUPPORTED where the CPU backend has no arithmetic for `dtype`: RequireFloat accepts
// f32, bf16 and f16, RequireActivation f32 and bf16.
void RequireFloat(const char* op, DType dtype);
void RequireActivation(const char* op, DType dtype);

}  // namespace lora::cpu
