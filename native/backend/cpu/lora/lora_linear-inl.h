// The dropout mask and the narrow products h = x·downᵀ and u = g·up of lora_kernels.h, compiled
// once per instruction set. The outer products d_up and d_down are in outer-inl.h, and the operands
// of all of them in lora_operands-inl.h.
#if defined(LORA_BACKEND_CPU_LORA_LORA_LINEAR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_LORA_LORA_LINEAR_INL_H_
#undef LORA_BACKEND_CPU_LORA_LORA_LINEAR_INL_H_
#else
#define LORA_BACKEND_CPU_LORA_LORA_LINEAR_INL_H_
#endif

#include <algorithm>
#include <type_traits>

#include "backend/cpu/lora/lora_kernels.h"
#include "backend/cpu/product/panels.h"
#include "backend/cpu/simd/amx-inl.h"
#include "backend/cpu/simd/bf16-inl.h"
#include "backend/cpu/simd/operands.h"
#include "backend/cpu/simd/simd-inl.h"
#include "core/maths/philox.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// ---- dropout ---------------------------------------------------------------------------------

// Computes kLanes calls of Philox4x32-10 (core/maths/philox.h) side by side, one per 8 columns.
void DropoutMask(const Dropout& dropout, Range rows, size_t columns, uint8_t* mask) {
  const DU du;
  const hn::Rebind<uint8_t, DU> du8;
  const uint32_t threshold = DropoutThreshold(dropout.p);
  const size_t bytes = (columns + 7) / 8, stride = MaskStride(columns);
  const VU multiplier0 = hn::Set(du, 0xD2511F53u), multiplier1 = hn::Set(du, 0xCD9E8D57u);
  const VU low_half = hn::Set(du, 0xffffu), t = hn::Set(du, threshold);
  for (size_t row = rows.begin; row < rows.end; ++row, mask += stride) {
    for (size_t byte = 0; byte < bytes; byte += kLanes) {
      VU c0 = hn::Iota(du, static_cast<uint32_t>(byte));
      VU c1 = hn::Set(du, static_cast<uint32_t>(row));
      VU c2 = hn::Set(du, dropout.layer), c3 = hn::Set(du, dropout.forward);
      uint32_t k0 = static_cast<uint32_t>(dropout.seed);
      uint32_t k1 = static_cast<uint32_t>(dropout.seed >> 32);
      for (int round = 0; round < 10; ++round) {
        const VU high0 = hn::MulHigh(multiplier0, c0), low0 = hn::Mul(multiplier0, c0);
        const VU high1 = hn::MulHigh(multiplier1, c2), low1 = hn::Mul(multiplier1, c2);
        c0 = hn::Xor(hn::Xor(high1, c1), hn::Set(du, k0));
        c1 = low1;
        c2 = hn::Xor(hn::Xor(high0, c3), hn::Set(du, k1));
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
      }
      const VU words[4] = {c0, c1, c2, c3};
      VU kept = hn::Zero(du);
      HWY_UNROLL(4)
      for (size_t i = 0; i < 4; ++i) {
        const VU low = hn::And(words[i], low_half), high = hn::ShiftRight<16>(words[i]);
        kept = hn::Or(kept, hn::IfThenElseZero(hn::Ge(low, t), hn::Set(du, 1u << (2 * i))));
        kept = hn::Or(kept, hn::IfThenElseZero(hn::Ge(high, t), hn::Set(du, 2u << (2 * i))));
      }
      hn::StoreU(hn::TruncateTo(du8, kept), du8, mask + byte);
    }
  }
}

// ---- h = x·downᵀ --------------------------------------------------------------------------------

template <bool kBF16>
using Value = std::conditional_t<kBF16, hwy::bfloat16_t, float>;

// Loads a vector of 32-bit elements from a row of f32, or of bf16: widened, or pairs as they are.
template <bool kBF16, bool kPairs>
HWY_INLINE VU LoadElements(const void* row, size_t at) {
  const auto* const from = static_cast<const Value<kBF16>*>(row) + at;
  if constexpr (kPairs) {
    return hn::BitCast(DU(), hn::LoadU(DBF(), from));
  } else {
    return hn::BitCast(DU(), ReadVec(from));
  }
}
// Loads one from the first `count` values, and zeros beyond.
template <bool kBF16, bool kPairs>
HWY_INLINE VU LoadElementsPart(const void* row, size_t at, size_t count) {
  const auto* const from = static_cast<const Value<kBF16>*>(row) + at;
  if constexpr (kPairs) {
    return hn::BitCast(DU(), hn::LoadN(DBF(), from, count));
  } else {
    return hn::BitCast(DU(), ReadPart(from, count));
  }
}

// Keeps the values from `at` on, a multiple of how many a vector has, whose bits are set.
template <bool kPairs>
HWY_INLINE VU Keep(VU v, const uint8_t* bits, size_t at) {
  const DU du;
  if constexpr (kPairs) {
    const DU16 dh;
    const auto kept = hn::LoadMaskBits(dh, bits + at / 8);
    return hn::BitCast(du, hn::IfThenElseZero(kept, hn::BitCast(dh, v)));
  } else {
    return hn::BitCast(du, KeepColumns(hn::BitCast(DF(), v), bits, at));
  }
}

void KeepElements(const uint32_t* x, size_t x_stride, Operands operands, size_t rows,
                  size_t elements, const uint8_t* mask, size_t mask_stride, uint32_t* dst,
                  size_t dst_stride) {
  const DU du;
  // The parts of kAmxPairs pairs, a whole vector, follow each other.
  static_assert(kAmxPairs % kLanes == 0);
  const size_t parts = operands == Operands::kSplitF32 ? kParts : 1;
  for (size_t i = 0; i < rows; ++i) {
    for (size_t e = 0; e < elements; e += kLanes) {
      const size_t count = parts == 1 ? std::min(kLanes, elements - e) : kLanes;
      const size_t at = e / kAmxPairs * kAmxPairs * parts + e % kAmxPairs;
      for (size_t p = 0; p < parts; ++p) {
        const size_t from = at + p * kAmxPairs;
        const VU v = hn::LoadN(du, x + i * x_stride + from, count);
        hn::StoreN(Keep<true>(v, mask + i * mask_stride, 2 * e), du, dst + i * dst_stride + from,
                   count);
      }
    }
  }
}

// The most rows of x at a time, and how many rows of down a tile of so many rows has: as the
// registers allow. A sum does not depend on either.
constexpr size_t kDownRows = kRegisters / 8;
constexpr size_t DownRanks(size_t rows) { return rows <= kDownRows / 2 ? 8 : 4; }

// Computes dot products along k of kRows rows of x and kRanks rows of down, both read in memory
// order: in f32, or by pairs where both are bf16.
template <bool kBF16, bool kPairs, bool kMasked, size_t kRows, size_t kRanks>
HWY_INLINE void DownTile(const std::byte* x, size_t k, const uint8_t* mask, const std::byte* b,
                         float scale, float* HWY_RESTRICT h, size_t r) {
  static_assert(!kPairs || kBF16);
  constexpr size_t kValues = (kPairs ? 2 : 1) * kLanes;  // of a vector
  const DF df;
  const size_t x_bytes = k * (kBF16 ? 2 : 4), b_bytes = k * (kPairs ? 2 : 4);
  const size_t mask_stride = MaskStride(k);
  VF acc[kRows][kRanks];
  ZeroAccumulators(acc);
  const auto add = [&](size_t at, auto load_x, auto load_b) HWY_ATTR {
    VU bv[kRanks];
    HWY_UNROLL(8)
    for (size_t j = 0; j < kRanks; ++j) bv[j] = load_b(b + j * b_bytes);
    HWY_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      VU xv = load_x(x + i * x_bytes);
      if constexpr (kMasked) {
        xv = Keep<kPairs>(xv, mask + i * mask_stride, at);
      }
      HWY_UNROLL(8)
      for (size_t j = 0; j < kRanks; ++j) acc[i][j] = MulAddElements<kPairs>(xv, bv[j], acc[i][j]);
    }
  };
  size_t at = 0;
  for (; at + kValues <= k; at += kValues) {
    add(
        at, [&](const void* row) HWY_ATTR { return LoadElements<kBF16, kPairs>(row, at); },
        [&](const void* row) HWY_ATTR { return LoadElements<kPairs, kPairs>(row, at); });
  }
  if (at < k) {
    const size_t count = k - at;
    add(
        at,
        [&](const void* row) HWY_ATTR { return LoadElementsPart<kBF16, kPairs>(row, at, count); },
        [&](const void* row) HWY_ATTR { return LoadElementsPart<kPairs, kPairs>(row, at, count); });
  }
  HWY_UNROLL(8)
  for (size_t i = 0; i < kRows; ++i) {
    if constexpr (kRanks % 4 == 0) {
      const hn::FixedTag<float, 4> d4;
      HWY_UNROLL(8)
      for (size_t j = 0; j < kRanks; j += 4) {
        const auto sums = SumsOf4(acc[i][j], acc[i][j + 1], acc[i][j + 2], acc[i][j + 3]);
        hn::StoreU(hn::Mul(hn::Set(d4, scale), sums), d4, h + i * r + j);
      }
    } else {
      HWY_UNROLL(8)
      for (size_t j = 0; j < kRanks; ++j) h[i * r + j] = scale * hn::ReduceSum(df, acc[i][j]);
    }
  }
}

template <bool kBF16, bool kPairs, bool kMasked, size_t kRows>
HWY_NOINLINE void DownRows(const std::byte* x, size_t k, const uint8_t* mask, const std::byte* b,
                           size_t r, float scale, float* h) {
  constexpr size_t kRanks = DownRanks(kRows);
  const size_t b_bytes = k * (kPairs ? 2 : 4);
  size_t j = 0;
  const auto tile = [&](auto ranks) HWY_ATTR {
    DownTile<kBF16, kPairs, kMasked, kRows, ranks()>(x, k, mask, b + j * b_bytes, scale, h + j, r);
    j += ranks();
  };
  while (j + kRanks <= r) tile(std::integral_constant<size_t, kRanks>());
  if (kRanks > 4 && j + 4 <= r) tile(std::integral_constant<size_t, 4>());
  while (j < r) tile(std::integral_constant<size_t, 1>());
}

template <bool kBF16, bool kPairs, bool kMasked>
void DownAll(const void* x, size_t rows, size_t k, const uint8_t* mask, const void* b, size_t r,
             float scale, float* h) {
  size_t i = 0;
  const auto take = [&](auto count) {
    DownRows<kBF16, kPairs, kMasked, count()>(
        static_cast<const std::byte*>(x) + i * k * (kBF16 ? 2 : 4), k,
        kMasked ? mask + i * MaskStride(k) : nullptr, static_cast<const std::byte*>(b), r, scale,
        h + i * r);
    i += count();
  };
  while (i + kDownRows <= rows) take(std::integral_constant<size_t, kDownRows>());
  if (kDownRows > 2 && i + 2 <= rows) take(std::integral_constant<size_t, 2>());
  while (i < rows) take(std::integral_constant<size_t, 1>());
}

void MultiplyDown(const void* x, bool x_is_bf16, size_t rows, size_t k, const uint8_t* mask,
                  const float* b, size_t r, float scale, float* h) {
  if (x_is_bf16) {
    if (mask) {
      DownAll<true, false, true>(x, rows, k, mask, b, r, scale, h);
    } else {
      DownAll<true, false, false>(x, rows, k, mask, b, r, scale, h);
    }
  } else {
    if (mask) {
      DownAll<false, false, true>(x, rows, k, mask, b, r, scale, h);
    } else {
      DownAll<false, false, false>(x, rows, k, mask, b, r, scale, h);
    }
  }
}

void MultiplyDownPairs(const uint16_t* x, size_t rows, size_t k, const uint8_t* mask,
                       const uint16_t* b, size_t r, float scale, float* h) {
  if (mask) {
    DownAll<true, true, true>(x, rows, k, mask, b, r, scale, h);
  } else {
    DownAll<true, true, false>(x, rows, k, mask, b, r, scale, h);
  }
}

// ---- u = g·up -----------------------------------------------------------------------------------

// Lanes run along the ranks, with one broadcast of g per row.
template <bool kPairs, size_t kRows, size_t kVecs>
HWY_INLINE void UpTransposedTile(const uint32_t* HWY_RESTRICT g, size_t g_stride, size_t elements,
                                 const uint32_t* HWY_RESTRICT a, size_t r_padded, bool add,
                                 float* HWY_RESTRICT u) {
  const DF df;
  const DU du;
  VF acc[kRows][kVecs];
  ZeroAccumulators(acc);
  for (size_t e = 0; e < elements; ++e, a += r_padded) {
    VU av[kVecs];
    HWY_UNROLL(8)
    for (size_t j = 0; j < kVecs; ++j) av[j] = hn::LoadU(du, a + j * kLanes);
    HWY_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      const VU gv = hn::Set(du, g[i * g_stride + e]);
      HWY_UNROLL(8)
      for (size_t j = 0; j < kVecs; ++j) acc[i][j] = MulAddElements<kPairs>(gv, av[j], acc[i][j]);
    }
  }
  HWY_UNROLL(8)
  for (size_t i = 0; i < kRows; ++i) {
    HWY_UNROLL(8)
    for (size_t j = 0; j < kVecs; ++j) {
      float* to = u + i * r_padded + j * kLanes;
      hn::StoreU(add ? hn::Add(acc[i][j], hn::LoadU(df, to)) : acc[i][j], df, to);
    }
  }
}

template <bool kPairs, size_t kRows>
HWY_NOINLINE void UpTransposedRows(const uint32_t* g, size_t g_stride, size_t elements,
                                   const uint32_t* a, size_t r_padded, bool add, float* u) {
  size_t j = 0;
  for (; j + 2 * kLanes <= r_padded; j += 2 * kLanes) {
    UpTransposedTile<kPairs, kRows, 2>(g, g_stride, elements, a + j, r_padded, add, u + j);
  }
  if (j < r_padded) {
    UpTransposedTile<kPairs, kRows, 1>(g, g_stride, elements, a + j, r_padded, add, u + j);
  }
}

template <bool kPairs>
void UpTransposedAll(const uint32_t* g, size_t g_stride, size_t rows, size_t elements,
                     const uint32_t* a, size_t r_padded, bool add, float* u) {
  ForCount<kRegisterRows>(rows, [&](auto count) HWY_ATTR {
    UpTransposedRows<kPairs, count()>(g, g_stride, elements, a, r_padded, add, u);
  });
}

inline void UpTransposedTiles(const uint32_t* g, size_t g_stride, Operands operands, size_t rows,
                              size_t elements, const uint32_t* a, size_t r_padded, bool add,
                              float* u) {
  TileRegisters registers;
  registers.ConfigureBlock(rows);
  TileOperands of = {g, g_stride, a, r_padded, elements};
  if (operands == Operands::kSplitF32) of.parts = kParts;
  for (size_t j = 0; j < r_padded; j += kAmxBlockColumns) {
    of.w = a + j;
    const float* const from = add ? u + j : nullptr;
    if (r_padded - j >= kAmxBlockColumns) {
      MultiplyTiles<true>(of, {}, rows, from, r_padded, u + j, r_padded);
    } else {
      MultiplyTiles<false>(of, {}, rows, from, r_padded, u + j, r_padded);
    }
  }
}

void MultiplyUpTransposed(const uint32_t* g, size_t g_stride, Operands operands, size_t rows,
                          size_t elements, const uint32_t* a, size_t r_padded, bool add, float* u) {
  if (operands == Operands::kF32) {
    return UpTransposedAll<false>(g, g_stride, rows, elements, a, r_padded, add, u);
  }
  if constexpr (kMultipliesTiles) {
    UpTransposedTiles(g, g_stride, operands, rows, elements, a, r_padded, add, u);
  } else {
    UpTransposedAll<true>(g, g_stride, rows, elements, a, r_padded, add, u);
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
