// Expands panels of blocks (core/maths/blocks.h) to elements of the product. Blocks are
// decoded along the rows of W, so that their scales are read once for 16 values, and transposed.
#if defined(LORA_BACKEND_CPU_BLOCK_PANELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_BLOCK_PANELS_INL_H_
#undef LORA_BACKEND_CPU_BLOCK_PANELS_INL_H_
#else
#define LORA_BACKEND_CPU_BLOCK_PANELS_INL_H_
#endif

#include <algorithm>

#include "backend/cpu/bf16-inl.h"
#include "backend/cpu/simd-inl.h"
#include "core/maths/blocks.h"
#include "core/maths/ceil_div.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// dst [count][kPanelWidth] ← elements [first, first + count) of the panel at `panel`.
template <bool kPairs>
HWY_NOINLINE void ExpandBlocks(WeightFormat format, const uint32_t* HWY_RESTRICT panel,
                               size_t first, size_t count, uint32_t* HWY_RESTRICT dst) {
  constexpr size_t kPer = kPairs ? 2 : 1, kRows = 4, kValues = 64, kRow = kValues + kGroupValues;
  HWY_ALIGN float values[kRows][kRow];
  HWY_ALIGN hwy::bfloat16_t rounded[kRows][kRow];
  const auto* const blocks = reinterpret_cast<const uint8_t*>(panel);
  const size_t bytes = static_cast<size_t>(TraitsOf(format).block.bytes);
  for (size_t e = 0; e < count; e += kValues / kPer) {
    const size_t value = (first + e) * kPer, elements = std::min(kValues / kPer, count - e);
    const size_t group = value / kGroupValues, skipped = value % kGroupValues;
    const size_t groups = CeilDiv(skipped + elements * kPer, size_t{kGroupValues});
    for (size_t j = 0; j < kPanelWidth; j += kRows) {
      for (size_t i = 0; i < kRows; ++i) {
        DecodeGroups(format, blocks + (j + i) * bytes, bytes * kPanelWidth, group, groups,
                     values[i]);
        if constexpr (kPairs) {
          for (size_t v = 0; v < groups * kGroupValues; v += kLanes)
            WriteVec(hn::LoadU(DF(), values[i] + v), rounded[i] + v);
        }
      }
      const void* const from = kPairs ? static_cast<const void*>(rounded[0] + skipped)
                                      : static_cast<const void*>(values[0] + skipped);
      TransposeElements(static_cast<const uint32_t*>(from), kRow / kPer, kRows, elements,
                        dst + e * kPanelWidth + j, kPanelWidth);
    }
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
