// The attention and cross entropy kernels share these functions: conversion of rows between act
// elements and f32 tiles, exp, the transposition of a tile, and a product of two tiles. All tiles
// are f32 in scratch. Their rows are padded with zeros to a multiple of kTilePad elements, so that
// whole vectors of any target may be read and written.
#if defined(LORA_CPU_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_CPU_TILE_INL_H_
#undef LORA_CPU_TILE_INL_H_
#else
#define LORA_CPU_TILE_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "backend/cpu/amx_tile-inl.h"
#include "backend/cpu/simd-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, 16>;  // kTilePad lanes at most
using VF32 = hn::Vec<F32>;

// ---- act elements ↔ f32 ------------------------------------------------------------------------

HWY_INLINE VF32 LoadAct(F32 d, const float* p) { return hn::LoadU(d, p); }
HWY_INLINE VF32 LoadAct(F32 d, const hwy::bfloat16_t* p) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::bfloat16_t, F32>(), p));
}
HWY_INLINE VF32 LoadActN(F32 d, const float* p, size_t n) { return hn::LoadN(d, p, n); }
HWY_INLINE VF32 LoadActN(F32 d, const hwy::bfloat16_t* p, size_t n) {
  return hn::PromoteTo(d, hn::LoadN(hn::Rebind<hwy::bfloat16_t, F32>(), p, n));
}
HWY_INLINE void StoreAct(F32 d, VF32 v, float* p) { hn::StoreU(v, d, p); }
HWY_INLINE void StoreAct(F32, VF32 v, hwy::bfloat16_t* p) {
  const hn::Rebind<hwy::bfloat16_t, F32> db;
  hn::StoreU(hn::DemoteTo(db, v), db, p);
}
HWY_INLINE void StoreActN(F32 d, VF32 v, float* p, size_t n) { hn::StoreN(v, d, p, n); }
HWY_INLINE void StoreActN(F32, VF32 v, hwy::bfloat16_t* p, size_t n) {
  const hn::Rebind<hwy::bfloat16_t, F32> db;
  hn::StoreN(hn::DemoteTo(db, v), db, p, n);
}

// dst[0, padded) ← scale·src[0, n), then zeros; padded is a multiple of kTilePad.
template <class T>
HWY_INLINE void RowToF32(const T* HWY_RESTRICT src, size_t n, float scale, float* HWY_RESTRICT dst,
                         size_t padded) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  const VF32 s = hn::Set(d, scale);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(hn::Mul(s, LoadAct(d, src + i)), d, dst + i);
  if (i < n) {
    hn::StoreU(hn::Mul(s, LoadActN(d, src + i, n - i)), d, dst + i);
    i += lanes;
  }
  for (; i < padded; i += lanes) hn::StoreU(hn::Zero(d), d, dst + i);
}

// dst[0, n) ← scale·src[0, n), rounded once.
template <class T>
HWY_INLINE void RowFromF32(const float* HWY_RESTRICT src, size_t n, float scale,
                           T* HWY_RESTRICT dst) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  const VF32 s = hn::Set(d, scale);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) StoreAct(d, hn::Mul(s, hn::LoadU(d, src + i)), dst + i);
  if (i < n) StoreActN(d, hn::Mul(s, hn::LoadN(d, src + i, n - i)), dst + i, n - i);
}

// Pairs of two rows: bf16 of `low` in the low halves of the lanes, and of `high` in the high ones.
HWY_INLINE VU PairsOf(VF low, VF high) {
  const DU du;
#if HWY_ARCH_X86 && HWY_NATIVE_DOT_BF16
  const DBF db;
  const hn::Repartition<uint16_t, DF> dw;
  alignas(64) static constexpr uint16_t kInterleave[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const auto halves = hn::BitCast(dw, hn::OrderedDemote2To(db, low, high));
  return hn::BitCast(du, hn::TableLookupLanes(halves, hn::SetTableIndices(dw, kInterleave)));
#else
  const hn::Rebind<uint16_t, DF> dh;
  const DHalf db;
  const VU l = hn::PromoteTo(du, hn::BitCast(dh, hn::DemoteTo(db, low)));
  const VU h = hn::PromoteTo(du, hn::BitCast(dh, hn::DemoteTo(db, high)));
  return hn::Or(l, hn::ShiftLeft<16>(h));
#endif
}

// dst [⌈rows / 2⌉][padded] ← pairs of neighbouring rows [d] of bf16, the i-th of which begins at
// row(i). What is missing to whole pairs and to `padded` is zero.
template <class Row>
HWY_INLINE void InterleaveRows(size_t rows, size_t d, size_t padded, const Row& row,
                               uint32_t* HWY_RESTRICT dst) {
  const DU du;
  const hn::Rebind<uint16_t, DU> dh;
  for (size_t r = 0; r < rows; r += 2, dst += padded) {
    const auto* low = reinterpret_cast<const uint16_t*>(row(r));
    const auto* high = r + 1 < rows ? reinterpret_cast<const uint16_t*>(row(r + 1)) : nullptr;
    size_t i = 0;
    if (high) {
      const hn::Repartition<uint16_t, DU> dw;
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

// ---- exp ---------------------------------------------------------------------------------------

// pᵢ ← P(xᵢ), whose coefficients begin with the highest. One step of each vector after the other
// hides the latency of the steps.
template <size_t kCount, class... Floats>
HWY_INLINE void Polynomial(F32 d, VF32 (&p)[kCount], const VF32 (&x)[kCount], float highest,
                           Floats... coefficients) {
  HWY_UNROLL(8)
  for (size_t i = 0; i < kCount; ++i) p[i] = hn::Set(d, highest);
  const auto step = [&](float coefficient) HWY_ATTR {
    HWY_UNROLL(8)
    for (size_t i = 0; i < kCount; ++i) p[i] = hn::MulAdd(p[i], x[i], hn::Set(d, coefficient));
  };
  (step(coefficients), ...);
}
// xᵢ ← 2ⁿ·P(xᵢ), where the low bits of `shifted` are n with the exponent bias.
template <size_t kCount, class... Floats>
HWY_INLINE void PolynomialTimesPower(F32 d, VF32 (&x)[kCount], const VF32 (&shifted)[kCount],
                                     Floats... coefficients) {
  const hn::RebindToUnsigned<F32> du;
  VF32 p[kCount];
  Polynomial(d, p, x, coefficients...);
  HWY_UNROLL(8)
  for (size_t i = 0; i < kCount; ++i) {
    x[i] = hn::Mul(p[i], hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(du, shifted[i]))));
  }
}

// xᵢ ← e^xᵢ to about 1 ulp for xᵢ ≤ 88, and 0 where that is below the normal range; NaN for NaN:
//   x = n·ln 2 + r with |r| ≤ ln 2 / 2
// n is rounded by adding 1.5·2²³, and with the exponent bias beside it, its low bits are those of
// 2ⁿ. e^r is a minimax polynomial, whose relative error is 4e-9 with these rounded coefficients.
template <size_t kCount>
HWY_INLINE void ExpBelow88(F32 d, VF32 (&x)[kCount]) {
  const VF32 bias = hn::Set(d, 12582912.0f + 127.0f);
  VF32 shifted[kCount];
  HWY_UNROLL(8)
  for (size_t i = 0; i < kCount; ++i) {
    // Of a NaN and a number, the x86 instruction returns its second operand. At −88, 2ⁿ is 0.
    x[i] = hn::Max(hn::Set(d, -88.0f), x[i]);
  }
  HWY_UNROLL(8)
  for (size_t i = 0; i < kCount; ++i) {
    shifted[i] = hn::MulAdd(x[i], hn::Set(d, 1.44269504f), bias);
  }
  HWY_UNROLL(8)
  for (size_t i = 0; i < kCount; ++i) {
    const VF32 n = hn::Sub(shifted[i], bias);
    x[i] = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x[i]);
    x[i] = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), x[i]);
  }
  PolynomialTimesPower(d, x, shifted, 1.381459879e-3f, 8.368716575e-3f, 4.166838899e-2f,
                       1.666652113e-1f, 4.999999404e-1f, 1.0f, 1.0f);
}
HWY_INLINE VF32 ExpBelow88(F32 d, VF32 x) {
  VF32 one[1] = {x};
  ExpBelow88(d, one);
  return one[0];
}

// The same for every x: +inf above 88.4.
HWY_INLINE VF32 Exp(F32 d, VF32 x) { return ExpBelow88(d, hn::Min(hn::Set(d, 89.0f), x)); }

// tᵢ ← 2^tᵢ to about 1 ulp for tᵢ ≤ 127, and 0 or a subnormal number where that is below the normal
// range; NaN for NaN.
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
// AVX-512 has an instruction for t − ⌊t⌋, which is 0 for an infinity, and one for p·2^⌊t⌋. The
// polynomial is minimax on [0, 1), with a relative error of 2e-9.
template <size_t kCount>
HWY_INLINE void Exp2Below127(F32 d, VF32 (&t)[kCount]) {
  VF32 p[kCount], fraction[kCount];
  HWY_UNROLL(4)
  for (size_t i = 0; i < kCount; ++i) {
    fraction[i] = VF32{_mm512_reduce_ps(t[i].raw, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
  }
  Polynomial(d, p, fraction, 2.156597184e-4f, 1.248228946e-3f, 9.673775174e-3f, 5.548618361e-2f,
             2.402290851e-1f, 6.931470633e-1f, 1.0f);
  HWY_UNROLL(4)
  for (size_t i = 0; i < kCount; ++i) t[i] = VF32{_mm512_scalef_ps(p[i].raw, t[i].raw)};
}
#else
// n is rounded as above; here n and t − n are exact.
template <size_t kCount>
HWY_INLINE void Exp2Below127(F32 d, VF32 (&t)[kCount]) {
  const VF32 bias = hn::Set(d, 12582912.0f + 127.0f);
  VF32 shifted[kCount];
  HWY_UNROLL(4)
  for (size_t i = 0; i < kCount; ++i) t[i] = hn::Max(hn::Set(d, -127.0f), t[i]);
  HWY_UNROLL(4)
  for (size_t i = 0; i < kCount; ++i) shifted[i] = hn::Add(t[i], bias);
  HWY_UNROLL(4)
  for (size_t i = 0; i < kCount; ++i) t[i] = hn::Sub(t[i], hn::Sub(shifted[i], bias));
  PolynomialTimesPower(d, t, shifted, 1.532427996e-4f, 1.339098089e-3f, 9.618517943e-3f,
                       5.550359562e-2f, 2.402264774e-1f, 6.931471825e-1f, 1.0f);
}
#endif
HWY_INLINE VF32 Exp2Below127(F32 d, VF32 t) {
  VF32 one[1] = {t};
  Exp2Below127(d, one);
  return one[0];
}

// ---- transposition -----------------------------------------------------------------------------

// dst[j·ldd + i] = src[i·lds + j]
HWY_INLINE void TransposeTile(const float* HWY_RESTRICT src, size_t lds, size_t rows, size_t cols,
                              float* HWY_RESTRICT dst, size_t ldd) {
  TransposeElements(reinterpret_cast<const uint32_t*>(src), lds, rows, cols,
                    reinterpret_cast<uint32_t*>(dst), ldd);
}

// ---- product of two tiles ----------------------------------------------------------------------

// The register block has kBlockRows × kBlockVecs accumulators, kBlockVecs of B and
// one broadcast of A.
#if HWY_TARGET <= HWY_AVX3 || HWY_TARGET_IS_NEON
constexpr size_t kBlockRows = 6, kBlockVecs = 4;  // 32 registers
#else
constexpr size_t kBlockRows = 6, kBlockVecs = 2;  // 16 registers
#endif

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
    return LoadAct(F32(), p);
  }
}
HWY_INLINE VF32 Broadcast(const float* p) { return hn::Set(F32(), *p); }
HWY_INLINE VU Broadcast(const hwy::bfloat16_t* p) {
  uint32_t pair;  // which may lie at any even address
  std::memcpy(&pair, p, sizeof pair);
  return hn::Set(DU(), pair);
}
HWY_INLINE VU Broadcast(const uint32_t* p) { return hn::Set(DU(), *p); }
HWY_INLINE VF32 MulAddLanes(VF32 a, VF32 b, VF32 sum) { return hn::MulAdd(a, b, sum); }
HWY_INLINE VF32 MulAddLanes(VU a, VU b, VF32 sum) { return MulAddElements<true>(a, b, sum); }

// Every loop over acc is unrolled in full, because GCC would otherwise keep acc in memory, which
// is 2.7 times slower.
template <size_t kRows, size_t kVecs, class A, class B>
HWY_NOINLINE void MicroGemm(size_t depth, TileA<A> a, const B* HWY_RESTRICT b, size_t ldb,
                            TileC to) {
  const F32 d;
  const size_t lanes = hn::Lanes(d), ldc = to.stride;
  const A* HWY_RESTRICT from = a.data;
  float* HWY_RESTRICT c = to.data;
  VF32 acc[kRows][kVecs];
  if (to.accumulate) {
    VF32 factor[kVecs];
    HWY_UNROLL(4)
    for (size_t v = 0; v < kVecs; ++v) {
      factor[v] = to.factors ? hn::LoadU(d, to.factors + v * lanes) : hn::Set(d, 1.0f);
    }
    HWY_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      HWY_UNROLL(4)
      for (size_t v = 0; v < kVecs; ++v) {
        acc[i][v] = hn::Mul(hn::LoadU(d, c + i * ldc + v * lanes), factor[v]);
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
    for (size_t v = 0; v < kVecs; ++v) bv[v] = LoadLanes(b + v * lanes);
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
    for (size_t v = 0; v < kVecs; ++v) hn::StoreU(acc[i][v], d, c + v * lanes);
  }
}

template <size_t kVecs, class A, class B>
HWY_INLINE void GemmPanel(size_t rows, size_t depth, TileA<A> a, const B* HWY_RESTRICT b,
                          size_t ldb, TileC c) {
  const size_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  size_t row = 0;
  for (size_t block = 0; block < blocks; ++block) {
    const size_t end = rows * (block + 1) / blocks;  // blocks of nearly the same height
    TileA<A> from = a;
    from.data += row * a.row_step;
    TileC to = c;
    to.data += row * c.stride;
#define LORA_MICRO(N) MicroGemm<N, kVecs>(depth, from, b, ldb, to)
    switch (end - row) {
      case 6:
        LORA_MICRO(6);
        break;
      case 5:
        LORA_MICRO(5);
        break;
      case 4:
        LORA_MICRO(4);
        break;
      case 3:
        LORA_MICRO(3);
        break;
      case 2:
        LORA_MICRO(2);
        break;
      default:
        LORA_MICRO(1);
        break;
    }
#undef LORA_MICRO
    row = end;
  }
}

// C [rows × cols] ← A·B, or C + A·B, or C·factors + A·B, where B(k, j) = b[k·ldb + j], in f32 or
// bf16 for an A of f32, else in pairs of bf16. cols is rounded up to whole vectors, so rows of B
// and C must be padded that far.
template <class A, class B>
HWY_INLINE void TileGemm(size_t rows, size_t cols, size_t depth, TileA<A> a,
                         const B* HWY_RESTRICT b, size_t ldb, TileC c) {
  const size_t lanes = hn::Lanes(F32());
  const size_t vecs = (cols + lanes - 1) / lanes;
  const size_t panels = (vecs + kBlockVecs - 1) / kBlockVecs;
  size_t vec = 0;
  for (size_t panel = 0; panel < panels; ++panel) {
    const size_t end = vecs * (panel + 1) / panels;
    const B* pb = b + vec * lanes;
    TileC pc = c;
    pc.data += vec * lanes;
    if (c.factors) pc.factors += vec * lanes;
    switch (end - vec) {
#if HWY_TARGET <= HWY_AVX3 || HWY_TARGET_IS_NEON
      case 4:
        GemmPanel<4>(rows, depth, a, pb, ldb, pc);
        break;
      case 3:
        GemmPanel<3>(rows, depth, a, pb, ldb, pc);
        break;
#endif
      case 2:
        GemmPanel<2>(rows, depth, a, pb, ldb, pc);
        break;
      default:
        GemmPanel<1>(rows, depth, a, pb, ldb, pc);
        break;
    }
    vec = end;
  }
}

#if LORA_AMX

// C [rows][cols] times the factors of its columns. Factors of 1, the most frequent ones in
// attention, take no time.
HWY_INLINE void ScaleColumns(size_t rows, size_t cols, TileC c) {
  const F32 d;
  for (size_t j = 0; j < cols; j += hn::Lanes(d)) {
    const VF32 factor = hn::LoadU(d, c.factors + j);
    if (hn::AllTrue(d, hn::Eq(factor, hn::Set(d, 1.0f)))) continue;
    for (size_t i = 0; i < rows; ++i) {
      float* const at = c.data + i * c.stride + j;
      hn::StoreU(hn::Mul(hn::LoadU(d, at), factor), d, at);
    }
  }
}

// The same of pairs, in tile registers, which the caller has configured (TileRegisters). The pairs
// of a row of A follow each other.
template <class A>
HWY_INLINE void TileGemm(size_t rows, size_t cols, size_t depth, TileA<A> a,
                         const uint32_t* HWY_RESTRICT b, size_t ldb, TileC c) {
  if (c.factors) ScaleColumns(rows, cols, c);
  const size_t a_stride = a.row_step * sizeof(A) / sizeof(uint32_t);
  MultiplyPairTiles({rows, cols, depth, reinterpret_cast<const uint32_t*>(a.data), a_stride, b, ldb,
                     c.data, c.stride, c.accumulate});
}

#endif  // LORA_AMX

}  // namespace HWY_NAMESPACE
}  // namespace lora::cpu
HWY_AFTER_NAMESPACE();

#endif  // toggle
