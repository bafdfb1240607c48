#include "backend/cpu/product/whole_numbers.h"

#include "backend/cpu/product/panels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/product/whole_numbers.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/product/whole_numbers-inl.h"
#include "hwy/highway.h"

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(RoundRows);
HWY_EXPORT(AddWholeProducts);

void RoundRows(const RowsOfX& x, Range r, const WholeRows& to) {
  HWY_DYNAMIC_DISPATCH(RoundRows)(x, r, to);
}

void AddWholeProducts(const Step& step, size_t rows, size_t panel, float* sums) {
  HWY_DYNAMIC_DISPATCH(AddWholeProducts)(step, rows, panel, sums);
}

}  // namespace lora::cpu
#endif  // HWY_ONCE
