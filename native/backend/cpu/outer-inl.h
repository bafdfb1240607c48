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

// Loads kOuterWidth columns of a row of bf16 as f32: the even ones, then the odd ones. That takes
// an instruction each, where neighbouring columns take two.
HWY_INLINE void LoadEvenOdd(const std::byte* row, size_t column, size_t columns,
                            VF (&v)[kOuterVectors]) {
  const DF df;
  const DU du;
  const DBF dbf;
  static_assert(kOuterVectors == 2);
  const hwy::bfloat16_t* from = reinterpret_cast<const hwy::bfloat16_t*>(row) + column;
  const VU pairs = hn::BitCast(
      du, columns == kOuterWidth ? hn::LoadU(dbf, from) : hn::LoadN(dbf, from, columns));
  v[0] = hn::BitCast(df, hn::ShiftLeft<16>(pairs));
  v[1] = hn::BitCast(df, hn::And(pairs, hn::Set(du, 0xffff0000u)));
}

// Loads kOuterWidth columns of a row as f32.
template <bool kBF16>
HWY_INLINE void LoadColumns(const std::byte* row, size_t column, size_t columns,
                            VF (&v)[kOuterVectors]) {
  HWY_UNROLL(2)
  for (size_t j = 0; j < kOuterVectors; ++j) {
    const size_t at = j * kLanes;
    v[j] = columns >= at + kLanes ? LoadRow<kBF16>(row, column + at)
           : columns > at         ? LoadRowPart<kBF16>(row, column + at, columns - at)
                                  : hn::Zero(DF());
  }
}

// The sums of kRanks ranks × kOuterWidth columns stay in registers over all m rows.
template <bool kBF16, bool kMasked, size_t kRanks>
HWY_NOINLINE void OuterTile(const Outer& o, size_t rank, size_t column) {
  constexpr bool kEvenOdd = kBF16 && !kMasked;  // the order of columns in the sums
  const DF df;
  const size_t columns = std::min(kOuterWidth, o.n - column);
  const size_t row_bytes = o.n * (kBF16 ? 2 : 4), mask_stride = MaskStride(o.n);
  const float* v = o.m == 0 ? nullptr : o.v + rank;  // v may be null where there are no rows
  const std::byte* z = static_cast<const std::byte*>(o.z);
  const uint8_t* mask = o.mask;
  VF acc[kRanks][kOuterVectors];
  ZeroAccumulators(acc);
  for (size_t i = 0; i < o.m; ++i) {
    VF zv[kOuterVectors];
    if constexpr (kEvenOdd) {
      LoadEvenOdd(z, column, columns, zv);
    } else {
      LoadColumns<kBF16>(z, column, columns, zv);
    }
    hwy::Prefetch(z + 16 * row_bytes + column * (kBF16 ? 2 : 4));
    if constexpr (kMasked) {
      HWY_UNROLL(2)
      for (size_t j = 0; j < kOuterVectors; ++j) {
        zv[j] = KeepColumns(zv[j], mask, column + j * kLanes);
      }
      mask += mask_stride;
    }
    HWY_UNROLL(8)
    for (size_t k = 0; k < kRanks; ++k) {
      const VF vv = hn::Set(df, v[k]);
      HWY_UNROLL(2)
      for (size_t j = 0; j < kOuterVectors; ++j) acc[k][j] = hn::MulAdd(vv, zv[j], acc[k][j]);
    }
    v += o.v_stride;
    z += row_bytes;
  }
  const VF scale = hn::Set(df, o.scale);
  HWY_ALIGN float sums[kRanks * kOuterWidth];
  HWY_UNROLL(8)
  for (size_t k = 0; k < kRanks; ++k) {
    HWY_UNROLL(2)
    for (size_t j = 0; j < kOuterVectors; ++j) acc[k][j] = hn::Mul(scale, acc[k][j]);
    float* to = sums + k * kOuterWidth;
    if constexpr (kEvenOdd) {
      hn::StoreInterleaved2(acc[k][0], acc[k][1], df, to);
    } else {
      HWY_UNROLL(2)
      for (size_t j = 0; j < kOuterVectors; ++j) hn::Store(acc[k][j], df, to + j * kLanes);
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

template <bool kBF16, bool kMasked>
void OuterColumns(const Outer& o, Range columns) {
  for (size_t c = columns.begin; c < columns.end; c += kOuterWidth) {
    size_t k = 0;
    for (; k + kOuterRanks <= o.r; k += kOuterRanks) {
      OuterTile<kBF16, kMasked, kOuterRanks>(o, k, c);
    }
    if (kOuterRanks > 4 && k + 4 <= o.r) {
      OuterTile<kBF16, kMasked, 4>(o, k, c);
      k += 4;
    }
    if (k + 2 <= o.r) {
      OuterTile<kBF16, kMasked, 2>(o, k, c);
      k += 2;
    }
    if (k < o.r) OuterTile<kBF16, kMasked, 1>(o, k, c);
  }
}

void MultiplyOuter(const Outer& outer, Range columns) {
  if (outer.z_is_bf16) {
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
