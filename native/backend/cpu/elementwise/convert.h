// Converts whole rows from and to f32, for operands that several tasks read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/runtime/arena.h"
#include "core/maths/dtype.h"
#include "core/ops/tensor_view.h"

namespace lora::cpu {

// dst [n] ← src [n] of f32, bf16 or f16, exactly.
void ConvertToF32(const void* src, DType dtype, size_t n, float* dst);
// dst [n] of f32, bf16 or f16 ← src [n], rounded to nearest even.
void ConvertFromF32(const float* src, size_t n, void* dst, DType dtype);

// Returns a row as f32, either in place or converted into `arena`; how many bytes it takes there.
const float* RowAsF32(const TensorView& row, Arena& arena);
size_t RowBytes(const TensorView& row);

// Throw ERR_UNSUPPORTED where the CPU backend has no arithmetic for `dtype`: RequireFloat accepts
// f32, bf16 and f16, RequireActivation f32 and bf16.
void RequireFloat(const char* op, DType dtype);
void RequireActivation(const char* op, DType dtype);

}  // namespace lora::cpu
