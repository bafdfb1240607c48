// up, down and the low-rank vectors h and u as 32-bit elements (simd-inl.h) for the products of
// lora_kernels.h, compiled once per instruction set.
#if defined(LORA_BACKEND_CPU_LORA_LORA_OPERANDS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_LORA_LORA_OPERANDS_INL_H_
#undef LORA_BACKEND_CPU_LORA_LORA_OPERANDS_INL_H_
#else
#define LORA_BACKEND_CPU_LORA_LORA_OPERANDS_INL_H_
#endif

#include <algorithm>

#include "backend/cpu/lora/lora_kernels.h"
#include "backend/cpu/product/panels.h"
#include "backend/cpu/product/split-inl.h"
#include "backend/cpu/simd/bf16-inl.h"
#include "backend/cpu/simd/simd-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

void ScaleToElements(const float* v, size_t v_stride, size_t rows, size_t r, float scale,
                     Operands operands, uint32_t* dst, size_t dst_stride) {
  const DF df;
  const VF s = hn::Set(df, scale);
  const bool pairs = operands == Operands::kPairs;
  for (size_t i = 0; i < rows; ++i, v += v_stride, dst += dst_stride) {
    if (IsSplit(operands)) {
      SplitRow(v, r, scale, dst);
      continue;
    }
    uint16_t* halves = reinterpret_cast<uint16_t*>(dst);
    float* floats = reinterpret_cast<float*>(dst);
    size_t j = 0;
    for (; j + kLanes <= r; j += kLanes) {
      const VF scaled = hn::Mul(s, hn::LoadU(df, v + j));
      if (pairs) {
        WriteVecFast(scaled, halves + j);
      } else {
        hn::StoreU(scaled, df, floats + j);
      }
    }
    for (; j < r; ++j) {
      if (pairs) {
        halves[j] = BF16FromF32(scale * v[j]);
      } else {
        floats[j] = scale * v[j];
      }
    }
    const size_t elements = pairs ? (r + 1) / 2 : r;
    if (pairs && r % 2 != 0) halves[r] = 0;
    if (elements < dst_stride) std::fill(dst + elements, dst + dst_stride, 0u);
  }
}

// Zeroes columns [columns, stride) of each row.
HWY_INLINE void ZeroBeyond(uint32_t* dst, size_t rows, size_t columns, size_t stride) {
  if (columns == stride) return;
  for (size_t i = 0; i < rows; ++i)
    std::fill(dst + i * stride + columns, dst + (i + 1) * stride, 0u);
}

// dst [⌈columns / 2⌉][dst_stride] ← pairs of neighboring columns of v [rows, columns], rounded to
// bf16 and transposed. What is missing to whole pairs and to dst_stride >= rows is zero.
void PairColumns(const float* v, size_t rows, size_t columns, uint32_t* dst, size_t dst_stride) {
  constexpr size_t kBlock = 16;  // elements of a row that are rounded at a time
  HWY_ALIGN uint32_t block[kPanelWidth * kBlock];
  const size_t elements = (columns + 1) / 2;
  for (size_t i0 = 0; i0 < rows; i0 += kPanelWidth) {
    const size_t height = std::min(kPanelWidth, rows - i0);
    for (size_t e0 = 0; e0 < elements; e0 += kBlock) {
      const size_t count = std::min(kBlock, elements - e0);
      const size_t width = std::min(columns - 2 * e0, 2 * count);
      for (size_t i = 0; i < height; ++i) {
        RowToPairsFast(v + (i0 + i) * columns + 2 * e0, width, block + i * kBlock);
      }
      TransposeElements(block, kBlock, height, count, dst + e0 * dst_stride + i0, dst_stride);
    }
  }
  ZeroBeyond(dst, elements, rows, dst_stride);
}

// Rows that are split at a time: whole tiles of pairs.
constexpr size_t kSplitRows = 2 * kAmxPairs;

// dst [⌈k / kSplitRows⌉][kParts][kAmxPairs][dst_stride] ← pairs along k of v [k, n], or of
// v [n, k] if kTransposed, split. What is missing to whole tiles and to dst_stride >= n is zero.
template <bool kTransposed>
void SplitAlongK(const float* v, size_t v_stride, size_t k, size_t n, uint32_t* dst,
                 size_t dst_stride) {
  alignas(64) float piece[kSplitRows * kPanelWidth];
  for (size_t j = 0; j < dst_stride; j += kPanelWidth) {
    const size_t width = std::min(kPanelWidth, dst_stride - j);
    const size_t exist = std::min(width, n - std::min(n, j));
    if (exist < width) std::fill_n(piece, kSplitRows * kPanelWidth, 0.0f);
    for (size_t i = 0; i < k; i += kSplitRows) {
      const size_t count = std::min(kSplitRows, k - i);
      if constexpr (kTransposed) {
        TransposeElements(reinterpret_cast<const uint32_t*>(v + j * v_stride + i), v_stride, exist,
                          count, reinterpret_cast<uint32_t*>(piece), kPanelWidth);
      } else {
        for (size_t row = 0; row < count; ++row) {
          std::copy_n(v + (i + row) * v_stride + j, exist, piece + row * kPanelWidth);
        }
      }
      SplitRowPairs(piece, count, width, kParts, dst + i / 2 * kParts * dst_stride + j, dst_stride);
    }
  }
}

void NarrowRowsOf(const float* a, size_t n, size_t r, Operands operands, uint32_t* dst) {
  if (IsSplit(operands)) return SplitAlongK<false>(a, r, n, r, dst, PaddedRank(r));
  PairRows(a, r, n, r, dst, PaddedRank(r));
}

void NarrowColumnsOf(const float* b, size_t r, size_t k, Operands operands, uint32_t* dst) {
  if (IsSplit(operands)) return SplitAlongK<true>(b, k, k, r, dst, PaddedRank(r));
  PairColumns(b, r, k, dst, PaddedRank(r));
}

void PackUpPanel(const float* a, size_t n, size_t r, Operands operands, size_t panel,
                 uint32_t* dst) {
  const size_t elements = RankElements(r, operands);
  const size_t begin = panel * kPanelWidth, rows = std::min(kPanelWidth, n - begin);
  a += begin * r;
  dst += panel * RankSize(r, operands) * kPanelWidth;
  if (IsSplit(operands)) return SplitAlongK<true>(a, r, r, rows, dst, kPanelWidth);
  if (operands == Operands::kPairs) {
    PairColumns(a, rows, r, dst, kPanelWidth);
    std::fill(dst + (r + 1) / 2 * kPanelWidth, dst + elements * kPanelWidth, 0u);
  } else {
    TransposeElements(reinterpret_cast<const uint32_t*>(a), r, rows, r, dst, kPanelWidth);
    ZeroBeyond(dst, elements, rows, kPanelWidth);
  }
}

void PairRows(const float* v, size_t v_stride, size_t rows, size_t columns, uint32_t* dst,
              size_t dst_stride) {
  const DF df;
  for (size_t i = 0; i < rows; i += 2, v += 2 * v_stride, dst += dst_stride) {
    const auto load = [&](size_t row, size_t c) HWY_ATTR {
      if (i + row >= rows) return hn::Zero(df);
      return hn::LoadN(df, v + row * v_stride + c, columns - c);
    };
    size_t c = 0;
    for (; c < columns; c += kLanes) {
      hn::StoreN(PairsOfFast(load(0, c), load(1, c)), DU(), dst + c, dst_stride - c);
    }
    if (c < dst_stride) std::fill(dst + c, dst + dst_stride, 0u);
  }
}

void PackDownPanel(const float* b, size_t n, size_t r, Operands operands, size_t panel,
                   uint32_t* dst) {
  const DF df;
  const DU du;
  const bool pairs = operands == Operands::kPairs;
  const size_t elements = RankElements(r, operands);
  const size_t begin = panel * kPanelWidth, columns = std::min(kPanelWidth, n - begin);
  b += begin;
  dst += panel * RankSize(r, operands) * kPanelWidth;
  if (IsSplit(operands)) return SplitAlongK<false>(b, n, r, columns, dst, kPanelWidth);
  const auto load = [&](size_t row, size_t c) HWY_ATTR {
    if (row >= r || c >= columns) return hn::Zero(df);
    const float* from = b + row * n + c;
    return columns - c >= kLanes ? hn::LoadU(df, from) : hn::LoadN(df, from, columns - c);
  };
  for (size_t e = 0; e < elements; ++e, dst += kPanelWidth) {
    for (size_t c = 0; c < kPanelWidth; c += kLanes) {
      if (pairs) {
        hn::StoreU(PairsOfFast(load(2 * e, c), load(2 * e + 1, c)), du, dst + c);
      } else {
        hn::StoreU(hn::BitCast(du, load(e, c)), du, dst + c);
      }
    }
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
