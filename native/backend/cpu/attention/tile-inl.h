// The kernels of attention share these functions: conversion of rows between act elements and f32
// tiles, the transposition of a tile, and a product of two tiles. All tiles are f32 in scratch.
// Their rows are padded with zeros to a multiple of kMaxLanes elements, so that whole vectors of
// any target may be read and written.
#if defined(LORA_BACKEND_CPU_ATTENTION_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_ATTENTION_TILE_INL_H_
#undef LORA_BACKEND_CPU_ATTENTION_TILE_INL_H_
#else
#define LORA_BACKEND_CPU_ATTENTION_TILE_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "backend/cpu/attention/amx_attention-inl.h"
#include "backend/cpu/simd/bf16-inl.h"
#include "backend/cpu/simd/operands.h"
#include "backend/cpu/simd/simd-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// dst[0, padded) ← scale·src[0, n), then zeros; padded is a multiple of kMaxLanes.
template <class T>
HWY_INLINE void RowToF32(const T* HWY_RESTRICT src, size_t n, float scale, float* HWY_RESTRICT dst,
                         size_t padded) {
  const DF d;
  const VF s = hn::Set(d, scale);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) hn::StoreU(hn::Mul(s, ReadVec(src + i)), d, dst + i);
  if (i < n) {
    hn::StoreU(hn::Mul(s, ReadPart(src + i, n - i)), d, dst + i);
    i += kLanes;
  }
  for (; i < padded; i += kLanes) hn::StoreU(hn::Zero(d), d, dst + i);
}

// dst[0, n) ← scale·src[0, n), rounded once.
template <class T>
HWY_INLINE void RowFromF32(const float* HWY_RESTRICT src, size_t n, float scale,
                           T* HWY_RESTRICT dst) {
  const DF d;
  const VF s = hn::Set(d, scale);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) WriteVecFast(hn::Mul(s, hn::LoadU(d, src + i)), dst + i);
  if (i < n) WritePartFast(hn::Mul(s, hn::LoadN(d, src + i, n - i)), dst + i, n - i);
}

// dst [⌈rows / 2⌉][padded] ← pairs of neighboring rows [d] of bf16, the i-th of which begins at
// row(i). What is missing to whole pairs and to `padded` is zero.
template <class Row>
HWY_INLINE void InterleaveRows(size_t rows, size_t d, size_t padded, const Row& row,
                               uint32_t* HWY_RESTRICT dst) {
  const DU du;
  const DHalfU16 dh;
  for (size_t r = 0; r < rows; r += 2, dst += padded) {
    const auto* low = reinterpret_cast<const uint16_t*>(row(r));
    const auto* high = r + 1 < rows ? reinterpret_cast<const uint16_t*>(row(r + 1)) : nullptr;
    size_t i = 0;
    if (high) {
      const DU16 dw;
      for (; i + 2 * kLanes <= d; i += 2 * kLanes) {
        const auto l = hn::LoadU(dw, low + i), h = hn::LoadU(dw, high + i);
        hn::StoreU(hn::BitCast(du, hn::InterleaveWholeLower(dw, l, h)), du, dst + i);
        hn::StoreU(hn::BitCast(du, hn::InterleaveWholeUpper(dw, l, h)), du, dst + i + kLanes);
      }
    }
    for (; i < padded; i += kLanes) {
      const size_t count = i < d ? std::min(kLanes, d - i) : 0;
      VU pairs = hn::PromoteTo(du, hn::LoadN(dh, low + i, count));
      if (high) {
        pairs = hn::Or(pairs, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadN(dh, high + i, count))));
      }
      hn::StoreU(pairs, du, dst + i);
    }
  }
}

// ---- transposition -----------------------------------------------------------------------------

// dst[j·ldd + i] = src[i·lds + j]
HWY_INLINE void TransposeTile(const float* HWY_RESTRICT src, size_t lds, size_t rows, size_t cols,
                              float* HWY_RESTRICT dst, size_t ldd) {
  TransposeElements(reinterpret_cast<const uint32_t*>(src), lds, rows, cols,
                    reinterpret_cast<uint32_t*>(dst), ldd);
}

// ---- product of two tiles ----------------------------------------------------------------------

// A(i, k) = data[i·row_step + k·k_step]. Either step may be 1, so A may be transposed. Of bf16,
// element k is the pair that begins there; uint32_t are such pairs. B has pairs as well then.
template <class A>
struct TileA {
  const A* data;
  size_t row_step, k_step;
};

// What a product does with C: replaces it, is added to it, or is added to C times a factor for each
// column.
struct TileC {
  float* data;
  size_t stride;
  bool accumulate;
  const float* factors = nullptr;
};

// The lanes of B, an element of A in all of them, and the sum with their product.
template <class B>
HWY_INLINE auto LoadLanes(const B* p) {
  if constexpr (std::is_same_v<B, uint32_t>) {
    return hn::LoadU(DU(), p);
  } else {
    return ReadVec(p);
  }
}
HWY_INLINE VF Broadcast(const float* p) { return hn::Set(DF(), *p); }
HWY_INLINE VU Broadcast(const hwy::bfloat16_t* p) {
  uint32_t pair;  // which may lie at any even address
  std::memcpy(&pair, p, sizeof pair);
  return hn::Set(DU(), pair);
}
HWY_INLINE VU Broadcast(const uint32_t* p) { return hn::Set(DU(), *p); }
HWY_INLINE VF MulAddLanes(VF a, VF b, VF sum) { return hn::MulAdd(a, b, sum); }
HWY_INLINE VF MulAddLanes(VU a, VU b, VF sum) { return MulAddElements<true>(a, b, sum); }

// Every loop over acc is unrolled in full, because GCC would otherwise keep acc in memory, which
// is 2.7 times slower.
template <size_t kRows, size_t kVecs, class A, class B>
HWY_NOINLINE void MicroGemm(size_t depth, TileA<A> a, const B* HWY_RESTRICT b, size_t ldb,
                            TileC to) {
  const DF d;
  const size_t ldc = to.stride;
  const A* HWY_RESTRICT from = a.data;
  float* HWY_RESTRICT c = to.data;
  VF acc[kRows][kVecs];
  if (to.accumulate) {
    VF factor[kVecs];
    HWY_UNROLL(4)
    for (size_t v = 0; v < kVecs; ++v) {
      factor[v] = to.factors ? hn::LoadU(d, to.factors + v * kLanes) : hn::Set(d, 1.0f);
    }
    HWY_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      HWY_UNROLL(4)
      for (size_t v = 0; v < kVecs; ++v) {
        acc[i][v] = hn::Mul(hn::LoadU(d, c + i * ldc + v * kLanes), factor[v]);
      }
    }
  } else {
    HWY_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      HWY_UNROLL(4)
      for (size_t v = 0; v < kVecs; ++v) acc[i][v] = hn::Zero(d);
    }
  }
  for (size_t k = 0; k < depth; ++k) {
    decltype(LoadLanes(b)) bv[kVecs];
    HWY_UNROLL(4)
    for (size_t v = 0; v < kVecs; ++v) bv[v] = LoadLanes(b + v * kLanes);
    HWY_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      const auto av = Broadcast(from + i * a.row_step);
      HWY_UNROLL(4)
      for (size_t v = 0; v < kVecs; ++v) acc[i][v] = MulAddLanes(av, bv[v], acc[i][v]);
    }
    from += a.k_step;
    b += ldb;
  }
  HWY_UNROLL(8)
  for (size_t i = 0; i < kRows; ++i, c += ldc) {
    HWY_UNROLL(4)
    for (size_t v = 0; v < kVecs; ++v) hn::StoreU(acc[i][v], d, c + v * kLanes);
  }
}

template <size_t kVecs, class A, class B>
HWY_INLINE void GemmPanel(size_t rows, size_t depth, TileA<A> a, const B* HWY_RESTRICT b,
                          size_t ldb, TileC c) {
  const size_t blocks = (rows + kRegisterRows - 1) / kRegisterRows;
  size_t row = 0;
  for (size_t block = 0; block < blocks; ++block) {
    const size_t end = rows * (block + 1) / blocks;  // blocks of nearly the same height
    TileA<A> from = a;
    from.data += row * a.row_step;
    TileC to = c;
    to.data += row * c.stride;
    ForCount<kRegisterRows>(end - row, [&](auto count) HWY_ATTR {
      MicroGemm<count(), kVecs>(depth, from, b, ldb, to);
    });
    row = end;
  }
}

// C [rows][cols] times the factors of its columns. Factors of 1, the most frequent ones in
// attention, take no time.
HWY_INLINE void ScaleColumns(size_t rows, size_t cols, TileC c) {
  const DF d;
  for (size_t j = 0; j < cols; j += kLanes) {
    const VF factor = hn::LoadU(d, c.factors + j);
    if (hn::AllTrue(d, hn::Eq(factor, hn::Set(d, 1.0f)))) continue;
    for (size_t i = 0; i < rows; ++i) {
      float* const at = c.data + i * c.stride + j;
      hn::StoreU(hn::Mul(hn::LoadU(d, at), factor), d, at);
    }
  }
}

// C [rows × cols] ← A·B, or C + A·B, or C·factors + A·B, where B(k, j) = b[k·ldb + j], in f32 or
// bf16 for an A of f32, else in pairs of bf16. cols is rounded up to whole vectors, so rows of B
// and C must be padded that far. Tile registers, which the caller has configured (TileRegisters),
// multiply pairs; the pairs of a row of A follow each other for them.
template <class A, class B>
HWY_INLINE void TileGemm(size_t rows, size_t cols, size_t depth, TileA<A> a,
                         const B* HWY_RESTRICT b, size_t ldb, TileC c) {
  if constexpr (kMultipliesTiles && std::is_same_v<B, uint32_t>) {
    if (c.factors) ScaleColumns(rows, cols, c);
    const size_t a_stride = a.row_step * sizeof(A) / sizeof(uint32_t);
    return MultiplyPairTiles({rows, cols, depth, reinterpret_cast<const uint32_t*>(a.data),
                              a_stride, b, ldb, c.data, c.stride, c.accumulate});
  } else {
    const size_t vecs = (cols + kLanes - 1) / kLanes;
    const size_t panels = (vecs + kVectors - 1) / kVectors;
    size_t vec = 0;
    for (size_t panel = 0; panel < panels; ++panel) {
      const size_t end = vecs * (panel + 1) / panels;
      const B* pb = b + vec * kLanes;
      TileC pc = c;
      pc.data += vec * kLanes;
      if (c.factors) pc.factors += vec * kLanes;
      ForCount<kVectors>(
          end - vec, [&](auto count) HWY_ATTR { GemmPanel<count()>(rows, depth, a, pb, ldb, pc); });
      vec = end;
    }
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
