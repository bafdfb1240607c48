// The product for few rows of x, which is bound by reading the panels from memory.
#if defined(LORA_BACKEND_CPU_SKINNY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_SKINNY_INL_H_
#undef LORA_BACKEND_CPU_SKINNY_INL_H_
#else
#define LORA_BACKEND_CPU_SKINNY_INL_H_
#endif

#include <algorithm>

#include "backend/cpu/gemm-inl.h"
#include "backend/cpu/panel_reader-inl.h"
#include "backend/cpu/panels.h"
#include "backend/cpu/simd-inl.h"
#include "core/maths/dtype.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// How many elements ahead a panel is prefetched when it comes from memory.
constexpr size_t kStreamAhead = 24;

// Several sets of accumulators alternate, because those of one row are too few to hide the latency
// of a multiply-add.
constexpr size_t kSets = 8 / kVectors;
template <bool kPairs>
HWY_INLINE void MultiplyOneRow(const uint32_t* HWY_RESTRICT x, const uint32_t* HWY_RESTRICT w,
                               size_t elements, VF (&sets)[kSets][kVectors]) {
  const DU du;
  size_t e = 0;
  for (; e + kSets <= elements; e += kSets) {
    HWY_UNROLL(8)
    for (size_t s = 0; s < kSets; ++s) {
      const VU xv = hn::Set(du, x[e + s]);
      HWY_UNROLL(8)
      for (size_t j = 0; j < kVectors; ++j) {
        const uint32_t* at = w + s * kPanelWidth + j * kLanes;
        hwy::Prefetch(at + kStreamAhead * kPanelWidth);
        sets[s][j] = MulAddElements<kPairs>(xv, hn::LoadU(du, at), sets[s][j]);
      }
    }
    w += kSets * kPanelWidth;
  }
  for (; e < elements; ++e, w += kPanelWidth) {
    const VU xv = hn::Set(du, x[e]);
    HWY_UNROLL(8)
    for (size_t j = 0; j < kVectors; ++j) {
      sets[0][j] = MulAddElements<kPairs>(xv, hn::LoadU(du, w + j * kLanes), sets[0][j]);
    }
  }
}

// acc += h · Aᵀ in f32, for `columns` rows of A from `a` on. A is transposed a few ranks at a time
// into the layout that MultiplyStep reads.
template <size_t kRows>
HWY_INLINE void AddLora(const SkinnyLora& lora, const float* a, size_t columns,
                        VF (&acc)[kRows][kVectors]) {
  constexpr size_t kRanks = 16;
  HWY_ALIGN uint32_t block[kRanks * kPanelWidth];
  if (columns < kPanelWidth) std::fill(block, block + kRanks * kPanelWidth, 0u);
  for (size_t r = 0; r < lora.r; r += kRanks) {
    const size_t count = std::min(kRanks, lora.r - r);
    TransposeElements(reinterpret_cast<const uint32_t*>(a) + r, lora.r, columns, count, block,
                      kPanelWidth);
    MultiplyStep<false, 0>(reinterpret_cast<const uint32_t*>(lora.h) + r, lora.h_stride, block,
                           count, acc);
  }
}

// Calls multiply(x, w, elements) for a panel that is read in place, or else for small blocks of it,
// each with a multiple of kSets elements but for the last.
template <bool kPairs, class Multiply>
HWY_INLINE void ForEachBlock(const Step& step, size_t panel, const Multiply& multiply) {
  if (HWY_LIKELY(step.w.in_place())) {
    multiply(step.x, ReadPanel<kPairs>(step, panel, nullptr), step.elements);
    return;
  }
  constexpr size_t kElements = 32;
  HWY_ALIGN uint32_t block[kElements * kPanelWidth];
  for (size_t e = 0; e < step.elements; e += kElements) {
    const size_t count = std::min(kElements, step.elements - e);
    ExpandPanel<kPairs>(step.w, panel, step.w.first + e, count, block);
    multiply(step.x + e, block, count);
  }
}

// acc += x [kRows rows] · panel `panel`.
template <bool kPairs, size_t kRows>
HWY_INLINE void MultiplySkinnyStep(const Step& step, size_t panel, VF (&acc)[kRows][kVectors]) {
  if constexpr (kRows > 1) {
    ForEachBlock<kPairs>(step, panel, [&](const uint32_t* x, const uint32_t* w, size_t n) HWY_ATTR {
      MultiplyStep<kPairs, kStreamAhead>(x, step.x_stride, w, n, acc);
    });
  } else {
    VF sets[kSets][kVectors];
    ZeroAccumulators(sets);
    ForEachBlock<kPairs>(step, panel, [&](const uint32_t* x, const uint32_t* w, size_t n) HWY_ATTR {
      MultiplyOneRow<kPairs>(x, w, n, sets);
    });
    HWY_UNROLL(8)
    for (size_t s = 0; s < kSets; ++s) {
      HWY_UNROLL(8)
      for (size_t j = 0; j < kVectors; ++j) acc[0][j] = hn::Add(acc[0][j], sets[s][j]);
    }
  }
}

template <bool kPairs, size_t kRows>
HWY_NOINLINE void MultiplySkinnyOf(const Product& product, Range panels, const SkinnyLora& lora) {
  const DF df;
  for (size_t p = panels.begin; p < panels.end; ++p) {
    const size_t column = p * kPanelWidth;
    const size_t columns = std::min(kPanelWidth, product.n - column);
    VF acc[kRows][kVectors];
    ZeroAccumulators(acc);
    if (lora.r != 0) AddLora(lora, lora.a + column * lora.r, columns, acc);
    for (const Pass& pass : product.passes) MultiplySkinnyStep<kPairs>(pass.main, p, acc);
    if (HWY_LIKELY(columns == kPanelWidth)) {
      HWY_UNROLL(8)
      for (size_t i = 0; i < kRows; ++i) {
        HWY_UNROLL(8)
        for (size_t j = 0; j < kVectors; ++j) {
          VF v = acc[i][j];
          if (product.bias) v = hn::Add(v, hn::LoadU(df, product.bias + column + j * kLanes));
          const size_t at = i * product.ldy + column + j * kLanes;
          if (product.y_is_bf16) {
            StoreBF16(v, static_cast<uint16_t*>(product.y) + at);
          } else {
            hn::StoreU(v, df, static_cast<float*>(product.y) + at);
          }
        }
      }
    } else {
      HWY_ALIGN float spill[kRows * kPanelWidth];
      HWY_UNROLL(8)
      for (size_t i = 0; i < kRows; ++i) {
        HWY_UNROLL(8)
        for (size_t j = 0; j < kVectors; ++j) {
          hn::Store(acc[i][j], df, spill + i * kPanelWidth + j * kLanes);
        }
      }
      for (size_t i = 0; i < kRows; ++i) {
        for (size_t c = 0; c < columns; ++c) {
          float v = spill[i * kPanelWidth + c];
          if (product.bias) v += product.bias[column + c];
          const size_t at = i * product.ldy + column + c;
          if (product.y_is_bf16) {
            static_cast<uint16_t*>(product.y)[at] = BF16FromF32(v);
          } else {
            static_cast<float*>(product.y)[at] = v;
          }
        }
      }
    }
  }
}

template <bool kPairs>
void MultiplySkinnyRows(const Product& product, size_t rows, Range panels, const SkinnyLora& lora) {
  static_assert(kSkinnyRows == 4);
  switch (rows) {
    case 1:
      return MultiplySkinnyOf<kPairs, 1>(product, panels, lora);
    case 2:
      return MultiplySkinnyOf<kPairs, 2>(product, panels, lora);
    case 3:
      return MultiplySkinnyOf<kPairs, 3>(product, panels, lora);
    default:
      return MultiplySkinnyOf<kPairs, 4>(product, panels, lora);
  }
}

void MultiplySkinny(const Product& product, size_t rows, Range panels, const SkinnyLora& lora) {
  if (product.pairs) {
    MultiplySkinnyRows<true>(product, rows, panels, lora);
  } else {
    MultiplySkinnyRows<false>(product, rows, panels, lora);
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
