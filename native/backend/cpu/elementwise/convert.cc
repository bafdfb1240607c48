#include "backend/cpu/elementwise/convert.h"

#include "core/error.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/elementwise/convert.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/simd/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

void RowToFloats(const void* src, DType dtype, size_t n, float* dst) {
  ToF32(src, dtype, 0, n, dst);
}
void RowFromFloats(const float* src, size_t n, void* dst, DType dtype) {
  FromF32(src, n, dst, dtype, 0);
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(RowToFloats);
HWY_EXPORT(RowFromFloats);

void ConvertToF32(const void* src, DType dtype, size_t n, float* dst) {
  HWY_DYNAMIC_DISPATCH(RowToFloats)(src, dtype, n, dst);
}

void ConvertFromF32(const float* src, size_t n, void* dst, DType dtype) {
  HWY_DYNAMIC_DISPATCH(RowFromFloats)(src, n, dst, dtype);
}

const float* RowAsF32(const TensorView& row, Arena& arena) {
  if (row.dtype == DType::kF32) return row.as<const float>();
  const size_t n = static_cast<size_t>(row.numel());
  float* copy = arena.Take<float>(n);
  if (copy != nullptr) ConvertToF32(row.data, row.dtype, n, copy);
  return copy;
}

size_t RowBytes(const TensorView& row) {
  Arena arena;
  RowAsF32(row, arena);
  return arena.bytes();
}

void RequireFloat(const char* op, DType dtype) {
  if (dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16) return;
  Throw("ERR_UNSUPPORTED", op, "expected f32, bf16 or f16 on the CPU but received ", NameOf(dtype));
}

void RequireActivation(const char* op, DType dtype) {
  if (dtype == DType::kF32 || dtype == DType::kBF16) return;
  Throw("ERR_UNSUPPORTED", op, "expected f32 or bf16 on the CPU but received ", NameOf(dtype));
}

}  // namespace lora::cpu
#endif  // HWY_ONCE
