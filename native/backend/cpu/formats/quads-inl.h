// Panels of blocks (block_lanes-inl.h) as quads: four neighboring codes along the reduction in the
// 32 bits of a lane, which one instruction multiplies by four bytes and adds (VNNI), or two.
#if defined(LORA_BACKEND_CPU_FORMATS_QUADS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_FORMATS_QUADS_INL_H_
#undef LORA_BACKEND_CPU_FORMATS_QUADS_INL_H_
#else
#define LORA_BACKEND_CPU_FORMATS_QUADS_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "backend/cpu/formats/block_lanes-inl.h"
#include "backend/cpu/simd/simd-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

using DU8 = hn::Repartition<uint8_t, DF>;
using DI8 = hn::Repartition<int8_t, DF>;

// Whether one instruction adds the four products of a quad, of unsigned by signed bytes, to a lane.
constexpr bool kDotsQuads = HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3_DL;

constexpr size_t kQuadValues = 4;

// With vectors of 512 bits, quads come in another order of the outputs: blocks of four, as if those
// of a panel's vectors had been transposed. The scales and sums that they meet are kept in that
// order too. It is its own inverse.
constexpr bool kMovesRows = kLanes == 16;
static_assert(!kMovesRows || kVectors == 4);

// Changes the order of rows [kPanelWidth] of sums or scales.
template <bool kMoves = kMovesRows>
HWY_INLINE void MoveRows(float* HWY_RESTRICT at, size_t rows) {
  const DF df;
  if constexpr (kMoves) {
    const auto even = [](VF a, VF b)
                          HWY_ATTR { return hn::OddEvenBlocks(hn::SwapAdjacentBlocks(b), a); };
    const auto odd = [](VF a, VF b)
                         HWY_ATTR { return hn::OddEvenBlocks(b, hn::SwapAdjacentBlocks(a)); };
    for (size_t i = 0; i < rows; ++i, at += kPanelWidth) {
      const VF a = hn::LoadU(df, at), b = hn::LoadU(df, at + kLanes);
      const VF c = hn::LoadU(df, at + 2 * kLanes), d = hn::LoadU(df, at + 3 * kLanes);
      const VF even_ab = even(a, b), odd_ab = odd(a, b), even_cd = even(c, d), odd_cd = odd(c, d);
      hn::StoreU(hn::ConcatLowerLower(df, even_cd, even_ab), df, at);
      hn::StoreU(hn::ConcatLowerLower(df, odd_cd, odd_ab), df, at + kLanes);
      hn::StoreU(hn::ConcatUpperUpper(df, even_cd, even_ab), df, at + 2 * kLanes);
      hn::StoreU(hn::ConcatUpperUpper(df, odd_cd, odd_ab), df, at + 3 * kLanes);
    }
  }
}

using Quads = VU[kVectors];

// quads ← four rows of bytes from `at` on.
HWY_INLINE void ReadQuads(const uint8_t* HWY_RESTRICT at, Quads& quads) {
  const DU8 d8;
  const DU16 d16;
  const auto put = [&](size_t j, auto even, auto odd) HWY_ATTR {
    const auto first = hn::BitCast(d16, even), second = hn::BitCast(d16, odd);
    quads[j] = hn::BitCast(DU(), hn::InterleaveLower(d16, first, second));
    quads[j + 1] = hn::BitCast(DU(), hn::InterleaveUpper(d16, first, second));
  };
  if constexpr (kPanelWidth == HWY_MAX_BYTES) {
    const auto a = hn::LoadU(d8, at), b = hn::LoadU(d8, at + kPanelWidth);
    const auto c = hn::LoadU(d8, at + 2 * kPanelWidth), d = hn::LoadU(d8, at + 3 * kPanelWidth);
    put(0, hn::InterleaveLower(d8, a, b), hn::InterleaveLower(d8, c, d));
    put(2, hn::InterleaveUpper(d8, a, b), hn::InterleaveUpper(d8, c, d));
  } else if constexpr (kLanes == 8) {
    // A vector has two rows. Of four outputs come the bytes of rows 0, 2, 1 and 3, then those
    // of the next four.
    const DU du;
    const VU first = hn::BitCast(du, hn::LoadU(d8, at));
    const VU second = hn::BitCast(du, hn::LoadU(d8, at + 2 * kPanelWidth));
    alignas(32) static constexpr uint32_t kRows[] = {0, 1, 4, 5, 2, 3, 6, 7};
    const auto rows = hn::SetTableIndices(du, kRows);
    const auto order =
        hn::Dup128VecFromValues(d8, 0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15);
    const auto quads_of = [&](VU four) HWY_ATTR {
      const auto bytes = hn::BitCast(d8, hn::TableLookupLanes(four, rows));
      return hn::BitCast(du, hn::TableLookupBytes(bytes, order));
    };
    quads[0] = quads_of(hn::InterleaveLower(du, first, second));
    quads[1] = quads_of(hn::InterleaveUpper(du, first, second));
  } else {
    const hn::Half<DU8> half;
    const auto rows = [&](size_t first) HWY_ATTR {
      return hn::InterleaveLower(
          d8, hn::ZeroExtendVector(d8, hn::LoadU(half, at + first * kPanelWidth)),
          hn::ZeroExtendVector(d8, hn::LoadU(half, at + (first + 1) * kPanelWidth)));
    };
    put(0, rows(0), rows(2));
  }
}

HWY_INLINE VU BytesOf(VU quads, int shift, uint32_t mask) {
  return hn::And(hn::ShiftRightSame(quads, shift), hn::Set(DU(), mask));
}

// Returns the codes of 4 bits of part kPart.
template <size_t kPart>
HWY_INLINE VU Nibbles(VU bytes) {
  return hn::And(kPart == 0 ? bytes : hn::ShiftRight<4>(bytes), hn::Set(DU(), 0x0f0f0f0fu));
}

// The quad of values i to i + 3 of part kPart of a run of a block is CodesOf<kPart>(block, run, i),
// for each vector of outputs.
template <WeightFormat kFormat>
struct QuadDecoder;

template <>
struct QuadDecoder<WeightFormat::kQ8_0> {
  static constexpr int kBits = 8;
  template <size_t kPart>
  static HWY_INLINE void CodesOf(const uint8_t* block, size_t run, size_t i, Quads& quads) {
    ReadQuads(block + (2 + (run * kRunParts + kPart) * kGroupValues + i) * kPanelWidth, quads);
    if constexpr (kDotsQuads) {
      HWY_UNROLL(4)
      for (size_t j = 0; j < kVectors; ++j) {
        quads[j] = hn::Xor(quads[j], hn::Set(DU(), 0x80808080u));
      }
    }
  }
};

template <size_t kAt>
struct NibbleQuads {
  static constexpr int kBits = 4;
  template <size_t kPart>
  static HWY_INLINE void CodesOf(const uint8_t* block, size_t run, size_t i, Quads& quads) {
    ReadQuads(block + (kAt + run * kGroupValues + i) * kPanelWidth, quads);
    HWY_UNROLL(4)
    for (size_t j = 0; j < kVectors; ++j) quads[j] = Nibbles<kPart>(quads[j]);
  }
};
template <>
struct QuadDecoder<WeightFormat::kQ4_0> : NibbleQuads<2> {};
template <>
struct QuadDecoder<WeightFormat::kQ4_1> : NibbleQuads<4> {};
template <>
struct QuadDecoder<WeightFormat::kQ4_K> : NibbleQuads<16> {};

// The fifth bits of 32 codes lie in the four bytes before the others.
template <size_t kAt>
struct FiveBitQuads {
  static constexpr int kBits = 5;
  template <size_t kPart>
  static HWY_INLINE void CodesOf(const uint8_t* block, size_t run, size_t i, Quads& quads) {
    const DU du;
    NibbleQuads<kAt>::template CodesOf<kPart>(block, run, i, quads);
    Quads bits;
    ReadQuads(block + (kAt - 4) * kPanelWidth, bits);
    HWY_UNROLL(4)
    for (size_t j = 0; j < kVectors; ++j) {
      const VU four = BytesOf(bits[j], static_cast<int>(kPart * kGroupValues + i), 15);
      // Copies that are 7 bits apart have a bit of each at the ends of bytes.
      const VU copies = hn::Or(hn::Or(four, hn::ShiftLeft<7>(four)),
                               hn::Or(hn::ShiftLeft<14>(four), hn::ShiftLeft<21>(four)));
      quads[j] = hn::Or(quads[j], hn::ShiftLeft<4>(hn::And(copies, hn::Set(du, 0x01010101u))));
    }
  }
};
template <>
struct QuadDecoder<WeightFormat::kQ5_0> : FiveBitQuads<6> {};
template <>
struct QuadDecoder<WeightFormat::kQ5_1> : FiveBitQuads<8> {};

// quads |= the bits of `rows` of bytes from `shift` on, above 4 others.
HWY_INLINE void AddHighBits(const uint8_t* rows, int shift, uint32_t mask, Quads& quads) {
  Quads high;
  ReadQuads(rows, high);
  HWY_UNROLL(4)
  for (size_t j = 0; j < kVectors; ++j) {
    quads[j] = hn::Or(quads[j], hn::ShiftLeft<4>(BytesOf(high[j], shift, mask)));
  }
}

template <>
struct QuadDecoder<WeightFormat::kQ5_K> {
  static constexpr int kBits = 5;
  template <size_t kPart>
  static HWY_INLINE void CodesOf(const uint8_t* block, size_t run, size_t i, Quads& quads) {
    NibbleQuads<48>::CodesOf<kPart>(block, run, i, quads);
    AddHighBits(block + (16 + run % 2 * kGroupValues + i) * kPanelWidth,
                static_cast<int>(run / 2 * 2 + kPart), 0x01010101u, quads);
  }
};

template <>
struct QuadDecoder<WeightFormat::kQ6_K> {
  static constexpr int kBits = 6;
  template <size_t kPart>
  static HWY_INLINE void CodesOf(const uint8_t* block, size_t run, size_t i, Quads& quads) {
    const size_t group = LaneDecoder<WeightFormat::kQ6_K>::GroupOf(run, kPart);
    NibbleQuads<0>::CodesOf<kPart>(block, run, i, quads);
    AddHighBits(block + (128 + group / 8 * 32 + group % 2 * kGroupValues + i) * kPanelWidth,
                static_cast<int>(group % 8 / 2 * 2), 0x03030303u, quads);
  }
};

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
