// Multiplies tiles of bf16 pairs in memory by Intel's matrix instructions (amx-inl.h), for
// attention.
#if defined(LORA_BACKEND_CPU_ATTENTION_AMX_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_ATTENTION_AMX_ATTENTION_INL_H_
#undef LORA_BACKEND_CPU_ATTENTION_AMX_ATTENTION_INL_H_
#else
#define LORA_BACKEND_CPU_ATTENTION_AMX_ATTENTION_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "backend/cpu/simd/amx-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// C [rows][columns] ← A [rows][depth]·B [depth][columns], or C + A·B, of pairs. Rows of B and C are
// padded to whole vectors of columns.
struct PairProduct {
  size_t rows, columns, depth;
  const uint32_t* a;
  size_t a_stride;
  const uint32_t* b;
  size_t b_stride;
  float* c;
  size_t c_stride;
  bool accumulate;
};

#if LORA_AMX

// The block of C at (row, column), which is whole, or has fewer than kAmxRows rows. What is
// missing to whole tiles is in copies, so that nothing beyond the operands is read or written.
template <bool kTall, bool kWide>
LORA_AMX_ATTR HWY_INLINE void MultiplyBlockOfPairs(const PairProduct& p, size_t row,
                                                   size_t column) {
  constexpr size_t kRows = kTall ? kAmxBlockRows : kAmxRows;
  constexpr size_t kColumns = kWide ? kAmxBlockColumns : kAmxColumns;
  const size_t rows = std::min(p.rows - row, kRows);
  const bool few = rows < kAmxRows;
  const TileOperands of = {p.a + row * p.a_stride, p.a_stride, p.b + column, p.b_stride, p.depth};
  float *const c = p.c + row * p.c_stride + column, *sums = c;
  size_t stride = p.c_stride;
  alignas(64) float copy[kAmxRows * kColumns];
  if (few) {
    sums = copy;
    stride = kColumns;
    for (size_t i = 0; p.accumulate && i < rows; ++i) {
      std::memcpy(copy + i * kColumns, c + i * p.c_stride, kColumns * sizeof(float));
    }
  }
  HWY_FENCE;
  if (p.accumulate) {
    LoadTiles<kTall, kWide>(sums, stride);
  } else {
    ZeroTiles<kTall, kWide>();
  }
  size_t e = 0;
  for (; !few && e + kAmxPairs <= p.depth; e += kAmxPairs) {
    AddTiles<kTall, kWide, false>(of.x + e, of.x_stride, of.w + e * of.w_stride, of.w_stride);
  }
  for (; e < p.depth; e += kAmxPairs) {
    const PaddedPairs<kRows, kColumns> rest(of, e, rows);
    AddTiles<kTall, kWide, false>(rest.x, kAmxPairs, rest.w, kColumns);
    HWY_FENCE;  // the next copies may take the places of these
  }
  StoreTiles<kTall, kWide>(sums, stride);
  HWY_FENCE;
  for (size_t i = 0; few && i < rows; ++i) {
    std::memcpy(c + i * p.c_stride, copy + i * kColumns, kColumns * sizeof(float));
  }
}

// The caller has configured the tile registers for blocks of kAmxBlockRows rows.
LORA_AMX_ATTR HWY_NOINLINE inline void MultiplyPairTiles(const PairProduct& p) {
  for (size_t column = 0; column < p.columns; column += kAmxBlockColumns) {
    const bool wide = p.columns - column > kAmxColumns;
    for (size_t row = 0, end; row < p.rows; row = end) {
      const bool tall = p.rows - row >= kAmxBlockRows;
      end = row + (tall ? kAmxBlockRows : kAmxRows);
      if (tall && wide) {
        MultiplyBlockOfPairs<true, true>(p, row, column);
      } else if (tall) {
        MultiplyBlockOfPairs<true, false>(p, row, column);
      } else if (wide) {
        MultiplyBlockOfPairs<false, true>(p, row, column);
      } else {
        MultiplyBlockOfPairs<false, false>(p, row, column);
      }
    }
  }
}

// Four blocks of 128 bits, the first from `from` on, each `step` behind the one before.
HWY_INLINE __m512i LoadBlocks(const uint16_t* from, size_t step) {
  const auto load = [from, step](size_t i) HWY_ATTR {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * step));
  };
  __m512i blocks = _mm512_castsi128_si512(load(0));
  blocks = _mm512_inserti32x4(blocks, load(1), 1);
  blocks = _mm512_inserti32x4(blocks, load(2), 2);
  return _mm512_inserti32x4(blocks, load(3), 3);
}

// to [4][16] ← the transposed rows of four elements each, of which the b-th blocks of the vectors
// hold the rows 4b to 4b + 3.
HWY_INLINE void StoreTransposed(const __m512i (&rows)[4], uint32_t* to, size_t stride) {
  const __m512i low01 = _mm512_unpacklo_epi32(rows[0], rows[1]);
  const __m512i low23 = _mm512_unpacklo_epi32(rows[2], rows[3]);
  const __m512i high01 = _mm512_unpackhi_epi32(rows[0], rows[1]);
  const __m512i high23 = _mm512_unpackhi_epi32(rows[2], rows[3]);
  _mm512_storeu_si512(to, _mm512_unpacklo_epi64(low01, low23));
  _mm512_storeu_si512(to + stride, _mm512_unpackhi_epi64(low01, low23));
  _mm512_storeu_si512(to + 2 * stride, _mm512_unpacklo_epi64(high01, high23));
  _mm512_storeu_si512(to + 3 * stride, _mm512_unpackhi_epi64(high01, high23));
}

// dst [columns][kAmxPairs] ← the pairs of neighboring rows of src [2·kAmxPairs][columns],
// transposed; columns are a multiple of 8. The vectors are put together as they are loaded, which
// leaves three of five steps to registers.
HWY_INLINE void TransposeRowPairs(const uint16_t* src, size_t src_stride, size_t columns,
                                  uint32_t* dst, size_t dst_stride) {
  for (size_t c = 0; c < columns; c += 8) {
    __m512i low[4], high[4];
    HWY_UNROLL(4)
    for (size_t i = 0; i < 4; ++i) {
      const uint16_t* const even = src + 2 * i * src_stride + c;
      const __m512i evens = LoadBlocks(even, 8 * src_stride);
      const __m512i odds = LoadBlocks(even + src_stride, 8 * src_stride);
      low[i] = _mm512_unpacklo_epi16(evens, odds);
      high[i] = _mm512_unpackhi_epi16(evens, odds);
    }
    StoreTransposed(low, dst + c * dst_stride, dst_stride);
    StoreTransposed(high, dst + (c + 4) * dst_stride, dst_stride);
  }
}

#else

void MultiplyPairTiles(const PairProduct& p);
void TransposeRowPairs(const uint16_t* src, size_t src_stride, size_t columns, uint32_t* dst,
                       size_t dst_stride);

#endif  // LORA_AMX

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
