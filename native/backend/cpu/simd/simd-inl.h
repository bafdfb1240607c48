// The kernels of the CPU backend share these vector types, the 32-bit element, and conversions
// of bf16 and dropout bits. The file is compiled once per instruction set, so everything is
// inline or a template.
//
// A "32-bit element" is one f32 or a pair of bf16 along the reduction.
#if defined(LORA_BACKEND_CPU_SIMD_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_SIMD_SIMD_INL_H_
#undef LORA_BACKEND_CPU_SIMD_SIMD_INL_H_
#else
#define LORA_BACKEND_CPU_SIMD_SIMD_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/maths/dtype.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Tags (D…) and vectors (V…) of Highway, by their elements.
using DF = hn::ScalableTag<float>;
using DU = hn::RebindToUnsigned<DF>;
using DI = hn::RebindToSigned<DF>;
using DF64 = hn::Repartition<double, DF>;  // half as many
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;
using VI = hn::Vec<DI>;
// Two values of 16 bits for each lane of a DF, and one.
using DBF = hn::Repartition<hwy::bfloat16_t, DF>;
using DU16 = hn::Repartition<uint16_t, DF>;
using DHalfBF = hn::Rebind<hwy::bfloat16_t, DF>;
using DHalfF16 = hn::Rebind<hwy::float16_t, DF>;
using DHalfU16 = hn::Rebind<uint16_t, DF>;

// The targets of this build have fixed vector lengths. SVE and RVV are left out, because they
// allow no arrays of Vec.
constexpr size_t kLanes = HWY_MAX_BYTES / sizeof(float);
#if HWY_ARCH_X86 && HWY_TARGET > HWY_AVX3
constexpr size_t kRegisters = 16;
#else
constexpr size_t kRegisters = 32;
#endif
// They hold the sums of 6 rows (kRegisterRows) and 2 or 4 vectors of a panel.
constexpr size_t kVectors = kRegisters / 8;
constexpr size_t kPanelWidth = kVectors * kLanes;
constexpr size_t kCacheLine = 64;

// Whether one instruction adds both products of a bf16 pair to its lane, faster than two of f32 do:
// CPUs with AMX (amx-inl.h) run it in four times the cycles of one of f32. On ARM, Highway 1.2
// decides that by a macro of the target that was compiled before, and takes the last one, NEON
// without AES, for NEON with bf16.
#undef LORA_DOT_BF16
#if HWY_ARCH_X86 && HWY_TARGET == HWY_AVX3_SPR
#define LORA_DOT_BF16 0
#elif HWY_ARCH_ARM
#define LORA_DOT_BF16 (HWY_TARGET == HWY_NEON_BF16)
#else
#define LORA_DOT_BF16 HWY_NATIVE_DOT_BF16
#endif

// Returns acc + x·w, element by element. Both products of a pair are added to its lane.
template <bool kPairs>
HWY_INLINE VF MulAddElements(VU x, VU w, VF acc) {
  const DF df;
  if constexpr (!kPairs) {
    return hn::MulAdd(hn::BitCast(df, x), hn::BitCast(df, w), acc);
  } else {
#if LORA_DOT_BF16
    // One instruction adds both products to acc here; the second sum exists for other targets only.
    const DBF dbf;
    VF unused = hn::Zero(df);
    return hn::ReorderWidenMulAccumulate(df, hn::BitCast(dbf, x), hn::BitCast(dbf, w), acc, unused);
#else
    const VU high = hn::Set(DU(), 0xffff0000u);
    acc = hn::MulAdd(hn::BitCast(df, hn::ShiftLeft<16>(x)), hn::BitCast(df, hn::ShiftLeft<16>(w)),
                     acc);
    return hn::MulAdd(hn::BitCast(df, hn::And(x, high)), hn::BitCast(df, hn::And(w, high)), acc);
#endif
  }
}

// Returns the lanes whose bit is set, for columns from `column` on (a multiple of kLanes or of 8).
// It reads one byte more than it needs.
HWY_INLINE hn::Mask<DU> KeptColumns(const uint8_t* bits, size_t column) {
  const DU du;
  const uint8_t* at = bits + column / 8;
  const uint32_t word = (at[0] | static_cast<uint32_t>(at[1]) << 8) >> (column % 8);
  return hn::TestBit(hn::Set(du, word), hn::Shl(hn::Set(du, 1u), hn::Iota(du, 0)));
}

HWY_INLINE VF KeepColumns(VF v, const uint8_t* bits, size_t column) {
  return hn::IfThenElseZero(hn::RebindMask(DF(), KeptColumns(bits, column)), v);
}

// Calls use(n) with `count`, which is 1 to kMax, as a constant.
template <size_t kMax, class Use>
HWY_INLINE void ForCount(size_t count, const Use& use) {
  if constexpr (kMax > 1) {
    if (count != kMax) return ForCount<kMax - 1>(count, use);
  }
  use(std::integral_constant<size_t, kMax>());
}

template <size_t kRows, size_t kVecs>
HWY_INLINE void ZeroAccumulators(VF (&acc)[kRows][kVecs]) {
  HWY_UNROLL(8)
  for (size_t i = 0; i < kRows; ++i) {
    HWY_UNROLL(8)
    for (size_t j = 0; j < kVecs; ++j) acc[i][j] = hn::Zero(DF());
  }
}

// Sums of rows, or of panels, that are kPanelWidth apart in memory.
template <size_t kRows>
HWY_INLINE void LoadSums(const float* sums, VF (&acc)[kRows][kVectors]) {
  HWY_UNROLL(8)
  for (size_t i = 0; i < kRows; ++i) {
    HWY_UNROLL(8)
    for (size_t j = 0; j < kVectors; ++j) {
      acc[i][j] = hn::LoadU(DF(), sums + i * kPanelWidth + j * kLanes);
    }
  }
}
template <size_t kRows>
HWY_INLINE void StoreSums(const VF (&acc)[kRows][kVectors], float* sums) {
  HWY_UNROLL(8)
  for (size_t i = 0; i < kRows; ++i) {
    HWY_UNROLL(8)
    for (size_t j = 0; j < kVectors; ++j) {
      hn::StoreU(acc[i][j], DF(), sums + i * kPanelWidth + j * kLanes);
    }
  }
}

// Returns the sum of a vector's blocks of 4 lanes.
template <class D>
HWY_INLINE hn::Vec<hn::FixedTag<float, 4>> SumBlocks(D, hn::Vec<D> v) {
  if constexpr (HWY_MAX_LANES_D(D) == 4) {
    return v;
  } else {
    const hn::Half<D> half;
    return SumBlocks(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}
// Returns the sums of the lanes of four vectors.
HWY_INLINE hn::Vec<hn::FixedTag<float, 4>> SumsOf4(VF a, VF b, VF c, VF d) {
  const DF df;
  const hn::Repartition<uint64_t, DF> d64;
  const VF ab = hn::Add(hn::InterleaveLower(df, a, b), hn::InterleaveUpper(df, a, b));
  const VF cd = hn::Add(hn::InterleaveLower(df, c, d), hn::InterleaveUpper(df, c, d));
  const auto ab64 = hn::BitCast(d64, ab), cd64 = hn::BitCast(d64, cd);
  return SumBlocks(df, hn::Add(hn::BitCast(df, hn::InterleaveLower(d64, ab64, cd64)),
                               hn::BitCast(df, hn::InterleaveUpper(d64, ab64, cd64))));
}

// Two rows of 2·kLanes values of 16 bits, as pairs of which `first` are the low halves. The pairs
// of 4 neighboring columns make a block, and blocks are in lower and upper in turn.
struct RowPairs {
  VU lower, upper;
  template <class VHalf>
  HWY_INLINE RowPairs(VHalf first, VHalf second) {
    const DU16 dh;
    lower = hn::BitCast(DU(), hn::InterleaveLower(dh, first, second));
    upper = hn::BitCast(DU(), hn::InterleaveUpper(dh, first, second));
  }
};
// Stores 2·kLanes columns in their order, given those of RowPairs.
HWY_INLINE void StoreColumns(VF lower, VF upper, float* HWY_RESTRICT to) {
  const DF df;
  if constexpr (kLanes == 4) {
    hn::StoreU(lower, df, to);
    hn::StoreU(upper, df, to + kLanes);
  } else {
    HWY_ALIGN float blocks[2][kLanes];
    hn::Store(lower, df, blocks[0]);
    hn::Store(upper, df, blocks[1]);
    for (size_t i = 0; i < 2 * kLanes; i += 4) {
      std::memcpy(to + i, blocks[i / 4 % 2] + i / 8 * 4, 4 * sizeof(float));
    }
  }
}

// Transposes 4 rows of src by the lanes of D: each 128-bit block of the vectors holds 4 columns.
template <class D>
HWY_INLINE void TransposeRows(D d, const uint32_t* HWY_RESTRICT src, size_t src_stride,
                              uint32_t* HWY_RESTRICT dst, size_t dst_stride) {
  const hn::Repartition<uint64_t, D> d64;
  const auto r0 = hn::LoadU(d, src), r1 = hn::LoadU(d, src + src_stride);
  const auto r2 = hn::LoadU(d, src + 2 * src_stride), r3 = hn::LoadU(d, src + 3 * src_stride);
  // Columns 0, 1 (low) and 2, 3 (high) of a block, of two rows each.
  const auto low01 = hn::BitCast(d64, hn::InterleaveLower(d, r0, r1));
  const auto low23 = hn::BitCast(d64, hn::InterleaveLower(d, r2, r3));
  const auto high01 = hn::BitCast(d64, hn::InterleaveUpper(d, r0, r1));
  const auto high23 = hn::BitCast(d64, hn::InterleaveUpper(d, r2, r3));
  const auto c0 = hn::BitCast(d, hn::InterleaveLower(d64, low01, low23));
  const auto c1 = hn::BitCast(d, hn::InterleaveUpper(d64, low01, low23));
  const auto c2 = hn::BitCast(d, hn::InterleaveLower(d64, high01, high23));
  const auto c3 = hn::BitCast(d, hn::InterleaveUpper(d64, high01, high23));
  const hn::FixedTag<uint32_t, 4> d4;
  constexpr int kBlocks = HWY_MAX_LANES_D(D) / 4;
  const auto store = [&](auto block) HWY_ATTR {
    constexpr int kBlock = decltype(block)::value;
    if constexpr (kBlock < kBlocks) {
      uint32_t* at = dst + 4 * kBlock * dst_stride;
      hn::StoreU(hn::ExtractBlock<kBlock>(c0), d4, at);
      hn::StoreU(hn::ExtractBlock<kBlock>(c1), d4, at + dst_stride);
      hn::StoreU(hn::ExtractBlock<kBlock>(c2), d4, at + 2 * dst_stride);
      hn::StoreU(hn::ExtractBlock<kBlock>(c3), d4, at + 3 * dst_stride);
    }
  };
  store(std::integral_constant<int, 0>());
  store(std::integral_constant<int, 1>());
  store(std::integral_constant<int, 2>());
  store(std::integral_constant<int, 3>());
}

// dst[c·dst_stride + j] ← src[j·src_stride + c] for j < rows, c < columns.
HWY_INLINE void TransposeElements(const uint32_t* HWY_RESTRICT src, size_t src_stride, size_t rows,
                                  size_t columns, uint32_t* HWY_RESTRICT dst, size_t dst_stride) {
  size_t j = 0;
  for (; j + 4 <= rows; j += 4) {
    const uint32_t* from = src + j * src_stride;
    uint32_t* to = dst + j;
    size_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) {
      TransposeRows(DU(), from + c, src_stride, to + c * dst_stride, dst_stride);
    }
    if constexpr (kLanes > 8) {
      for (; c + 8 <= columns; c += 8) {
        TransposeRows(hn::CappedTag<uint32_t, 8>(), from + c, src_stride, to + c * dst_stride,
                      dst_stride);
      }
    }
    for (; c + 4 <= columns; c += 4) {
      TransposeRows(hn::FixedTag<uint32_t, 4>(), from + c, src_stride, to + c * dst_stride,
                    dst_stride);
    }
    for (; c < columns; ++c) {
      for (size_t i = 0; i < 4; ++i) to[c * dst_stride + i] = from[i * src_stride + c];
    }
  }
  for (; j < rows; ++j) {
    for (size_t c = 0; c < columns; ++c) dst[c * dst_stride + j] = src[j * src_stride + c];
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
