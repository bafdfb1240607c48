// Every op of the CPU backend multiplies matrices with this product:
//
//   Y [m, n] (+)= Σ over segments s of X_s [m, k_s] · W_s [n, k_s]ᵀ  + bias
//
// with W_s in panels (pack.h) and X_s row-major. All segments are summed in f32 before Y is rounded
// once. The result of an element depends neither on the number of threads nor on the other rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "backend/cpu/formats/pack.h"
#include "backend/cpu/runtime/context.h"
#include "backend/cpu/simd/operands.h"
#include "core/ops/backend.h"

namespace lora::cpu {

struct GemmSegment {
  const void* x = nullptr;  // [m, k] of x_dtype; f32 is rounded to bf16 where W is bf16
  DType x_dtype = DType::kF32;
  size_t ldx = 0;  // elements from one row to the next
  PanelSource w;   // of [n, k], or of [k, n] read transposed
  size_t k = 0;
};

struct GemmArgs {
  Operands operands = Operands::kF32;
  size_t m = 0, n = 0;
  std::span<const GemmSegment> segments;
  const float* bias = nullptr;  // [n], or none
  void* y = nullptr;            // [m, n]
  DType y_dtype = DType::kF32;  // f32 or bf16
  size_t ldy = 0;
  bool accumulate = false;  // y ← y + …; f32 y only
};

// Depends only on the sizes and dtypes; the pointers may still be null.
size_t GemmScratchBytes(const GemmArgs&, int threads);

// With a null `context` everything runs on the calling thread, as a task of ParallelFor needs it;
// the scratch is then that of 1 thread.
void Gemm(const GemmArgs&, Scratch, CpuContext* context);

}  // namespace lora::cpu
