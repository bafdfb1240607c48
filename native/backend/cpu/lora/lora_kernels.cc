#include "backend/cpu/lora/lora_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/lora/lora_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/lora/lora_linear-inl.h"
#include "backend/cpu/lora/lora_operands-inl.h"
#include "backend/cpu/lora/outer-inl.h"
#include "hwy/highway.h"

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(DropoutMask);
HWY_EXPORT(MultiplyDown);
HWY_EXPORT(MultiplyDownPairs);
HWY_EXPORT(MultiplyUpTransposed);
HWY_EXPORT(KeepElements);
HWY_EXPORT(NarrowRowsOf);
HWY_EXPORT(NarrowColumnsOf);
HWY_EXPORT(PairRows);
HWY_EXPORT(ScaleToElements);
HWY_EXPORT(PackUpPanel);
HWY_EXPORT(PackDownPanel);
HWY_EXPORT(MultiplyOuters);
HWY_EXPORT(PackOuter);

void DropoutMask(const Dropout& dropout, Range rows, size_t columns, uint8_t* mask) {
  HWY_DYNAMIC_DISPATCH(DropoutMask)(dropout, rows, columns, mask);
}

void MultiplyDown(const void* x, bool x_is_bf16, size_t rows, size_t k, const uint8_t* mask,
                  const float* b, size_t r, float scale, float* h) {
  HWY_DYNAMIC_DISPATCH(MultiplyDown)(x, x_is_bf16, rows, k, mask, b, r, scale, h);
}

void MultiplyDownPairs(const uint16_t* x, size_t rows, size_t k, const uint8_t* mask,
                       const uint16_t* b, size_t r, float scale, float* h) {
  HWY_DYNAMIC_DISPATCH(MultiplyDownPairs)(x, rows, k, mask, b, r, scale, h);
}

void MultiplyUpTransposed(const uint32_t* g, size_t g_stride, Operands operands, size_t rows,
                          size_t elements, const uint32_t* a, size_t r_padded, bool add, float* u) {
  HWY_DYNAMIC_DISPATCH(MultiplyUpTransposed)
  (g, g_stride, operands, rows, elements, a, r_padded, add, u);
}

void KeepElements(const uint32_t* x, size_t x_stride, Operands operands, size_t rows,
                  size_t elements, const uint8_t* mask, size_t mask_stride, uint32_t* dst,
                  size_t dst_stride) {
  HWY_DYNAMIC_DISPATCH(KeepElements)
  (x, x_stride, operands, rows, elements, mask, mask_stride, dst, dst_stride);
}

void NarrowRowsOf(const float* a, size_t n, size_t r, Operands operands, uint32_t* dst) {
  HWY_DYNAMIC_DISPATCH(NarrowRowsOf)(a, n, r, operands, dst);
}

void NarrowColumnsOf(const float* b, size_t r, size_t k, Operands operands, uint32_t* dst) {
  HWY_DYNAMIC_DISPATCH(NarrowColumnsOf)(b, r, k, operands, dst);
}

void PairRows(const float* v, size_t v_stride, size_t rows, size_t columns, uint32_t* dst,
              size_t dst_stride) {
  HWY_DYNAMIC_DISPATCH(PairRows)(v, v_stride, rows, columns, dst, dst_stride);
}

void ScaleToElements(const float* v, size_t v_stride, size_t rows, size_t r, float scale,
                     Operands operands, uint32_t* dst, size_t dst_stride) {
  HWY_DYNAMIC_DISPATCH(ScaleToElements)(v, v_stride, rows, r, scale, operands, dst, dst_stride);
}

void PackUpPanel(const float* a, size_t n, size_t r, Operands operands, size_t panel,
                 uint32_t* dst) {
  HWY_DYNAMIC_DISPATCH(PackUpPanel)(a, n, r, operands, panel, dst);
}

void PackDownPanel(const float* b, size_t n, size_t r, Operands operands, size_t panel,
                   uint32_t* dst) {
  HWY_DYNAMIC_DISPATCH(PackDownPanel)(b, n, r, operands, panel, dst);
}

void MultiplyOuters(std::span<const Outer> outers, Range columns) {
  HWY_DYNAMIC_DISPATCH(MultiplyOuters)(outers, columns);
}

void PackOuter(const float* v, size_t v_stride, size_t m, size_t r, Operands operands,
               uint32_t* dst) {
  HWY_DYNAMIC_DISPATCH(PackOuter)(v, v_stride, m, r, operands, dst);
}

}  // namespace lora::cpu
#endif  // HWY_ONCE
