// The outer products of dA and dB (lora_kernels.h), compiled once per instruction set.
#if defined(LORA_BACKEND_CPU_OUTER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_OUTER_INL_H_
#undef LORA_BACKEND_CPU_OUTER_INL_H_
#else
#define LORA_BACKEND_CPU_OUTER_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include "backend/cpu/lora_linear-inl.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

#if HWY_ARCH_X86 && HWY_TARGET > HWY_AVX3
constexpr size_t kOuterRanks = 4;
#else
constexpr size_t kOuterRanks = 8;
#endif
constexpr size_t kOuterVectors = 2;
constexpr size_t kOuterWidth = kOuterVectors * kLanes;
static_assert(kOuterColumns % kOuterWidth == 0);

// Loads kOuterWidth columns of a row of f32, of which `columns` exist.
HWY_INLINE void LoadColumns(const float* row, size_t columns, VF (&v)[kOuterVectors]) {
  const DF df;
  HWY_UNROLL(2)
  for (size_t j = 0; j < kOuterVectors; ++j) {
    const size_t at = j * kLanes;
    v[j] = columns >= at + kLanes ? hn::LoadU(df, row + at)
           : columns > at         ? hn::LoadN(df, row + at, columns - at)
                                  : hn::Zero(df);
  }
}

// Loads kOuterWidth columns of a row of bf16, with zeros where the mask drops them.
template <bool kMasked>
HWY_INLINE auto LoadHalves(const uint16_t* row, const uint8_t* mask, size_t columns) {
  const hn::Repartition<uint16_t, DU> dh;
  const auto halves = columns == kOuterWidth ? hn::LoadU(dh, row) : hn::LoadN(dh, row, columns);
  if constexpr (!kMasked) return halves;
  return hn::IfThenElseZero(hn::LoadMaskBits(dh, mask), halves);
}

// The sums of kRanks ranks × kOuterWidth columns stay in registers over all m rows. A step takes a
// row of f32 or, of bf16, a pair of rows.
template <bool kPairs, bool kMasked, size_t kRanks>
HWY_NOINLINE void OuterTile(const Outer& o, size_t rank, size_t column) {
  const DF df;
  const DU du;
  constexpr size_t kRows = kPairs ? 2 : 1, kSize = kPairs ? 2 : 4;
  const size_t columns = std::min(kOuterWidth, o.n - column), mask_stride = MaskStride(o.n);
  const size_t row_bytes = o.n * kSize;
  // v and z may be null where there are no rows.
  const uint32_t* v = o.m == 0 ? nullptr : o.v + rank;
  const std::byte* z = o.m == 0 ? nullptr : static_cast<const std::byte*>(o.z) + column * kSize;
  const uint8_t* mask = kMasked && o.m != 0 ? o.mask + column / 8 : nullptr;
  VF acc[kRanks][kOuterVectors];
  ZeroAccumulators(acc);
  for (size_t i = 0; i < o.m; i += kRows) {
    VU zv[kOuterVectors];
    if constexpr (kPairs) {
      const hn::Repartition<uint16_t, DU> dh;
      const auto load = [&](size_t row) HWY_ATTR {
        return LoadHalves<kMasked>(reinterpret_cast<const uint16_t*>(z + row * row_bytes),
                                   kMasked ? mask + row * mask_stride : nullptr, columns);
      };
      const auto first = load(0);
      const auto second = i + 1 < o.m ? load(1) : hn::Zero(dh);
      const RowPairs pairs(first, second);
      zv[0] = pairs.lower;
      zv[1] = pairs.upper;
      hwy::Prefetch(z + 17 * row_bytes);
    } else {
      VF row[kOuterVectors];
      LoadColumns(reinterpret_cast<const float*>(z), columns, row);
      HWY_UNROLL(2)
      for (size_t j = 0; j < kOuterVectors; ++j) {
        if constexpr (kMasked) row[j] = KeepColumns(row[j], mask, j * kLanes);
        zv[j] = hn::BitCast(du, row[j]);
      }
    }
    hwy::Prefetch(z + 16 * row_bytes);
    HWY_UNROLL(8)
    for (size_t k = 0; k < kRanks; ++k) {
      const VU vv = hn::Set(du, v[k]);
      HWY_UNROLL(2)
      for (size_t j = 0; j < kOuterVectors; ++j) {
        acc[k][j] = MulAddElements<kPairs>(vv, zv[j], acc[k][j]);
      }
    }
    v += o.v_stride;
    z += kRows * row_bytes;
    if constexpr (kMasked) mask += kRows * mask_stride;
  }
  const VF scale = hn::Set(df, o.scale);
  HWY_ALIGN float sums[kRanks * kOuterWidth];
  HWY_UNROLL(8)
  for (size_t k = 0; k < kRanks; ++k) {
    HWY_UNROLL(2)
    for (size_t j = 0; j < kOuterVectors; ++j) acc[k][j] = hn::Mul(scale, acc[k][j]);
    float* to = sums + k * kOuterWidth;
    if constexpr (kPairs) {
      StoreColumns(acc[k][0], acc[k][1], to);
    } else {
      hn::Store(acc[k][0], df, to);
      hn::Store(acc[k][1], df, to + kLanes);
    }
  }
  if (o.transposed) {
    TransposeElements(reinterpret_cast<const uint32_t*>(sums), kOuterWidth, kRanks, columns,
                      reinterpret_cast<uint32_t*>(o.out + column * o.r + rank), o.r);
  } else {
    for (size_t k = 0; k < kRanks; ++k) {
      std::memcpy(o.out + (rank + k) * o.n + column, sums + k * kOuterWidth,
                  columns * sizeof(float));
    }
  }
}

template <bool kPairs, bool kMasked>
void OuterColumns(const Outer& o, Range columns) {
  for (size_t c = columns.begin; c < columns.end; c += kOuterWidth) {
    size_t k = 0;
    for (; k + kOuterRanks <= o.r; k += kOuterRanks) {
      OuterTile<kPairs, kMasked, kOuterRanks>(o, k, c);
    }
    if (kOuterRanks > 4 && k + 4 <= o.r) {
      OuterTile<kPairs, kMasked, 4>(o, k, c);
      k += 4;
    }
    if (k + 2 <= o.r) {
      OuterTile<kPairs, kMasked, 2>(o, k, c);
      k += 2;
    }
    if (k < o.r) OuterTile<kPairs, kMasked, 1>(o, k, c);
  }
}

void MultiplyOuter(const Outer& outer, Range columns) {
  if (outer.pairs) {
    if (outer.mask) {
      OuterColumns<true, true>(outer, columns);
    } else {
      OuterColumns<true, false>(outer, columns);
    }
  } else {
    if (outer.mask) {
      OuterColumns<false, true>(outer, columns);
    } else {
      OuterColumns<false, false>(outer, columns);
    }
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
