// Loops that lora_kernels.h declares, without the outer products (outer-inl.h). They are compiled
// once per instruction set.
#if defined(LORA_BACKEND_CPU_LORA_LINEAR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_LORA_LINEAR_INL_H_
#undef LORA_BACKEND_CPU_LORA_LINEAR_INL_H_
#else
#define LORA_BACKEND_CPU_LORA_LINEAR_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include "backend/cpu/lora_kernels.h"
#include "backend/cpu/panels.h"
#include "backend/cpu/simd-inl.h"
#include "core/maths/philox.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// Loads kLanes values of a row as f32.
template <bool kBF16>
HWY_INLINE VF LoadRow(const void* row, size_t at) {
  if constexpr (kBF16) {
    const DHalf dh;
    return hn::PromoteTo(DF(), hn::LoadU(dh, static_cast<const hwy::bfloat16_t*>(row) + at));
  } else {
    return hn::LoadU(DF(), static_cast<const float*>(row) + at);
  }
}
// Loads the first `count` < kLanes of them, and zeros beyond.
template <bool kBF16>
HWY_INLINE VF LoadRowPart(const void* row, size_t at, size_t count) {
  if constexpr (kBF16) {
    const DHalf dh;
    return hn::PromoteTo(DF(), hn::LoadN(dh, static_cast<const hwy::bfloat16_t*>(row) + at, count));
  } else {
    return hn::LoadN(DF(), static_cast<const float*>(row) + at, count);
  }
}

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

// ---- h = x·Bᵀ --------------------------------------------------------------------------------

#if HWY_ARCH_X86 && HWY_TARGET > HWY_AVX3
constexpr size_t kDownRows = 2;
#else
constexpr size_t kDownRows = 4;
#endif
constexpr size_t kDownRanks = 4;

// Computes dot products along k of kRows rows of x and kRanks rows of B, both read in memory order.
template <bool kBF16, bool kMasked, size_t kRows, size_t kRanks>
HWY_INLINE void DownTile(const std::byte* x, size_t x_bytes, size_t k, const uint8_t* mask,
                         size_t mask_stride, const float* HWY_RESTRICT b, float scale,
                         float* HWY_RESTRICT h, size_t r) {
  const DF df;
  VF acc[kRows][kRanks];
  ZeroAccumulators(acc);
  size_t at = 0;
  for (; at + kLanes <= k; at += kLanes) {
    VF bv[kRanks];
    HWY_UNROLL(8)
    for (size_t j = 0; j < kRanks; ++j) bv[j] = hn::LoadU(df, b + j * k + at);
    HWY_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      VF xv = LoadRow<kBF16>(x + i * x_bytes, at);
      if constexpr (kMasked) xv = KeepColumns(xv, mask + i * mask_stride, at);
      HWY_UNROLL(8)
      for (size_t j = 0; j < kRanks; ++j) acc[i][j] = hn::MulAdd(xv, bv[j], acc[i][j]);
    }
  }
  if (at < k) {
    VF bv[kRanks];
    HWY_UNROLL(8)
    for (size_t j = 0; j < kRanks; ++j) bv[j] = hn::LoadN(df, b + j * k + at, k - at);
    HWY_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      VF xv = LoadRowPart<kBF16>(x + i * x_bytes, at, k - at);
      if constexpr (kMasked) xv = KeepColumns(xv, mask + i * mask_stride, at);
      HWY_UNROLL(8)
      for (size_t j = 0; j < kRanks; ++j) acc[i][j] = hn::MulAdd(xv, bv[j], acc[i][j]);
    }
  }
  HWY_UNROLL(8)
  for (size_t i = 0; i < kRows; ++i) {
    HWY_UNROLL(8)
    for (size_t j = 0; j < kRanks; ++j) h[i * r + j] = scale * hn::ReduceSum(df, acc[i][j]);
  }
}

template <bool kBF16, bool kMasked, size_t kRows>
HWY_NOINLINE void DownRows(const std::byte* x, size_t k, const uint8_t* mask, const float* b,
                           size_t r, float scale, float* h) {
  const size_t x_bytes = k * (kBF16 ? 2 : 4), mask_stride = MaskStride(k);
  size_t j = 0;
  for (; j + kDownRanks <= r; j += kDownRanks) {
    DownTile<kBF16, kMasked, kRows, kDownRanks>(x, x_bytes, k, mask, mask_stride, b + j * k, scale,
                                                h + j, r);
  }
  for (; j < r; ++j) {
    DownTile<kBF16, kMasked, kRows, 1>(x, x_bytes, k, mask, mask_stride, b + j * k, scale, h + j,
                                       r);
  }
}

template <bool kBF16, bool kMasked>
void DownAll(const std::byte* x, size_t rows, size_t k, const uint8_t* mask, const float* b,
             size_t r, float scale, float* h) {
  const size_t x_bytes = k * (kBF16 ? 2 : 4);
  size_t i = 0;
  const auto mask_at = [&](size_t row) { return kMasked ? mask + row * MaskStride(k) : nullptr; };
  for (; i + kDownRows <= rows; i += kDownRows) {
    DownRows<kBF16, kMasked, kDownRows>(x + i * x_bytes, k, mask_at(i), b, r, scale, h + i * r);
  }
  if (kDownRows > 2 && i + 2 <= rows) {
    DownRows<kBF16, kMasked, 2>(x + i * x_bytes, k, mask_at(i), b, r, scale, h + i * r);
    i += 2;
  }
  for (; i < rows; ++i) {
    DownRows<kBF16, kMasked, 1>(x + i * x_bytes, k, mask_at(i), b, r, scale, h + i * r);
  }
}

void MultiplyDown(const void* x, bool x_is_bf16, size_t rows, size_t k, const uint8_t* mask,
                  const float* b, size_t r, float scale, float* h) {
  const std::byte* from = static_cast<const std::byte*>(x);
  if (x_is_bf16) {
    if (mask) {
      DownAll<true, true>(from, rows, k, mask, b, r, scale, h);
    } else {
      DownAll<true, false>(from, rows, k, mask, b, r, scale, h);
    }
  } else {
    if (mask) {
      DownAll<false, true>(from, rows, k, mask, b, r, scale, h);
    } else {
      DownAll<false, false>(from, rows, k, mask, b, r, scale, h);
    }
  }
}

// ---- u = g·A ---------------------------------------------------------------------------------

// Lanes run along the ranks, with one broadcast of g per row. A pair of bf16
// multiplies two rows of A.
template <bool kPairs, size_t kRows, size_t kVecs>
HWY_INLINE void UpTransposedTile(const uint32_t* HWY_RESTRICT g, size_t g_stride, size_t elements,
                                 const float* HWY_RESTRICT a, size_t r_padded, bool add,
                                 float* HWY_RESTRICT u) {
  const DF df;
  const DU du;
  VF acc[kRows][kVecs];
  ZeroAccumulators(acc);
  for (size_t e = 0; e < elements; ++e) {
    if constexpr (kPairs) {
      VF low[kVecs], high[kVecs];
      HWY_UNROLL(8)
      for (size_t j = 0; j < kVecs; ++j) {
        low[j] = hn::LoadU(df, a + j * kLanes);
        high[j] = hn::LoadU(df, a + r_padded + j * kLanes);
      }
      HWY_UNROLL(8)
      for (size_t i = 0; i < kRows; ++i) {
        const VU pair = hn::Set(du, g[i * g_stride + e]);
        const VF g0 = hn::BitCast(df, hn::ShiftLeft<16>(pair));
        const VF g1 = hn::BitCast(df, hn::And(pair, hn::Set(du, 0xffff0000u)));
        HWY_UNROLL(8)
        for (size_t j = 0; j < kVecs; ++j) {
          acc[i][j] = hn::MulAdd(g1, high[j], hn::MulAdd(g0, low[j], acc[i][j]));
        }
      }
      a += 2 * r_padded;
    } else {
      VF av[kVecs];
      HWY_UNROLL(8)
      for (size_t j = 0; j < kVecs; ++j) av[j] = hn::LoadU(df, a + j * kLanes);
      HWY_UNROLL(8)
      for (size_t i = 0; i < kRows; ++i) {
        const VF gv = hn::BitCast(df, hn::Set(du, g[i * g_stride + e]));
        HWY_UNROLL(8)
        for (size_t j = 0; j < kVecs; ++j) acc[i][j] = hn::MulAdd(gv, av[j], acc[i][j]);
      }
      a += r_padded;
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
                                   const float* a, size_t r_padded, bool add, float* u) {
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
                     const float* a, size_t r_padded, bool add, float* u) {
  static_assert(kTileM == 6);
  switch (rows) {
    case 1:
      return UpTransposedRows<kPairs, 1>(g, g_stride, elements, a, r_padded, add, u);
    case 2:
      return UpTransposedRows<kPairs, 2>(g, g_stride, elements, a, r_padded, add, u);
    case 3:
      return UpTransposedRows<kPairs, 3>(g, g_stride, elements, a, r_padded, add, u);
    case 4:
      return UpTransposedRows<kPairs, 4>(g, g_stride, elements, a, r_padded, add, u);
    case 5:
      return UpTransposedRows<kPairs, 5>(g, g_stride, elements, a, r_padded, add, u);
    default:
      return UpTransposedRows<kPairs, 6>(g, g_stride, elements, a, r_padded, add, u);
  }
}

void MultiplyUpTransposed(const uint32_t* g, size_t g_stride, bool pairs, size_t rows,
                          size_t elements, const float* a, size_t r_padded, bool add, float* u) {
  if (pairs) {
    UpTransposedAll<true>(g, g_stride, rows, elements, a, r_padded, add, u);
  } else {
    UpTransposedAll<false>(g, g_stride, rows, elements, a, r_padded, add, u);
  }
}

// ---- A, B and the low-rank vectors as 32-bit elements ----------------------------------------

void ScaleToElements(const float* v, size_t v_stride, size_t rows, size_t r, float scale,
                     bool pairs, uint32_t* dst, size_t dst_stride) {
  const DF df;
  const VF s = hn::Set(df, scale);
  for (size_t i = 0; i < rows; ++i, v += v_stride, dst += dst_stride) {
    uint16_t* halves = reinterpret_cast<uint16_t*>(dst);
    float* floats = reinterpret_cast<float*>(dst);
    size_t j = 0;
    for (; j + kLanes <= r; j += kLanes) {
      const VF scaled = hn::Mul(s, hn::LoadU(df, v + j));
      if (pairs) {
        StoreBF16(scaled, halves + j);
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
    if (pairs && r % 2 != 0) halves[r] = 0;
  }
}

void PackUpPanel(const float* a, size_t n, size_t r, bool pairs, size_t panel, uint32_t* dst) {
  constexpr size_t kBlock = 16;  // elements of a row that are rounded at a time
  HWY_ALIGN uint32_t block[kPanelWidth * kBlock];
  const size_t elements = pairs ? (r + 1) / 2 : r;
  const size_t begin = panel * kPanelWidth, rows = std::min(kPanelWidth, n - begin);
  a += begin * r;
  dst += panel * elements * kPanelWidth;
  if (pairs) {
    for (size_t e0 = 0; e0 < elements; e0 += kBlock) {
      const size_t count = std::min(kBlock, elements - e0);
      const size_t ranks = std::min(r - 2 * e0, 2 * count);
      for (size_t j = 0; j < rows; ++j) {
        RoundToPairs(a + j * r + 2 * e0, ranks, block + j * kBlock);
      }
      TransposeElements(block, kBlock, rows, count, dst + e0 * kPanelWidth, kPanelWidth);
    }
  } else {
    TransposeElements(reinterpret_cast<const uint32_t*>(a), r, rows, r, dst, kPanelWidth);
  }
  if (rows < kPanelWidth) {
    for (size_t e = 0; e < elements; ++e) {
      std::fill(dst + e * kPanelWidth + rows, dst + (e + 1) * kPanelWidth, 0u);
    }
  }
}

// Rounds kLanes columns of an f32 row into the low halves of 32-bit lanes.
HWY_INLINE VU RoundedHalves(VF v) {
  const hn::Rebind<uint16_t, DF> du16;
  return hn::PromoteTo(DU(), hn::BitCast(du16, hn::DemoteTo(DHalf(), v)));
}

void PackDownPanel(const float* b, size_t n, size_t r, bool pairs, size_t panel, uint32_t* dst) {
  const DF df;
  const DU du;
  const size_t elements = pairs ? (r + 1) / 2 : r;
  const size_t begin = panel * kPanelWidth, columns = std::min(kPanelWidth, n - begin);
  b += begin;
  dst += panel * elements * kPanelWidth;
  const auto load = [&](size_t row, size_t c) HWY_ATTR {
    if (row >= r || c >= columns) return hn::Zero(df);
    const float* from = b + row * n + c;
    return columns - c >= kLanes ? hn::LoadU(df, from) : hn::LoadN(df, from, columns - c);
  };
  for (size_t e = 0; e < elements; ++e, dst += kPanelWidth) {
    for (size_t c = 0; c < kPanelWidth; c += kLanes) {
      if (pairs) {
        const VU low = RoundedHalves(load(2 * e, c)), high = RoundedHalves(load(2 * e + 1, c));
        hn::StoreU(hn::Or(low, hn::ShiftLeft<16>(high)), du, dst + c);
      } else {
        hn::StoreU(hn::BitCast(du, load(e, c)), du, dst + c);
      }
    }
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
