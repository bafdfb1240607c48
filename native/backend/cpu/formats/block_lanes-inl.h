// What the bytes of packed blocks are, for kLanes outputs at a time. A panel has byte n of a block
// of all its outputs side by side (pack.h), so that one load gives a byte of each lane, and lanes
// need no transposition: neither where values are expanded nor where codes are multiplied.
//
// A LaneDecoder says the same as the BlockDecoder of its format (core/maths/block_formats.h):
// values are scale·(code − kZero) + offset. Formats without one are decoded output by output.
#if defined(LORA_BACKEND_CPU_FORMATS_BLOCK_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_FORMATS_BLOCK_LANES_INL_H_
#undef LORA_BACKEND_CPU_FORMATS_BLOCK_LANES_INL_H_
#else
#define LORA_BACKEND_CPU_FORMATS_BLOCK_LANES_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "backend/cpu/formats/codes-inl.h"
#include "backend/cpu/simd/simd-inl.h"
#include "core/maths/blocks.h"
#include "core/maths/weight_format.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// Returns value kIndex of each pair of f16. The bits of exponent and mantissa in the place of those
// of f32 are the value times 2⁻¹¹², subnormals of f16 among them; only the exponent of infinities
// and NaNs is not that of f32.
template <int kIndex>
HWY_INLINE VF F16Value(VU pair) {
  const DF df;
  const DU du;
  const VU upper = kIndex == 0 ? hn::ShiftLeft<16>(pair) : pair;
  const VU magnitude = hn::ShiftRight<3>(hn::And(upper, hn::Set(du, 0x7fff0000u)));
  const VU scaled = hn::BitCast(du, hn::Mul(hn::BitCast(df, magnitude), hn::Set(df, 0x1p112f)));
  const auto finite = hn::Lt(magnitude, hn::Set(du, 0x0f800000u));
  const VU value = hn::IfThenElse(finite, scaled, hn::Or(magnitude, hn::Set(du, 0x7f800000u)));
  return hn::BitCast(df, hn::Or(value, hn::And(upper, hn::Set(du, 0x80000000u))));
}

// The bytes of blocks of outputs j, j + 1, …, of which byte 0 is at `at`.
struct LaneBytes {
  const uint8_t* at;

  HWY_INLINE VI operator[](size_t n) const {
    return hn::PromoteTo(DI(), hn::LoadU(hn::Rebind<uint8_t, DF>(), at + n * kPanelWidth));
  }
  HWY_INLINE VI Signed(size_t n) const {
    const auto* const bytes = reinterpret_cast<const int8_t*>(at);
    return hn::PromoteTo(DI(), hn::LoadU(hn::Rebind<int8_t, DF>(), bytes + n * kPanelWidth));
  }
  // Returns the f16 in bytes n and n + 1. Where tiles multiply, F16Value would take subnormals for
  // zeros (SubnormalsOfTiles in amx_registers-inl.h).
  HWY_INLINE VF Half(size_t n) const {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
    const DHalfU16 d16;
    const auto byte = [&](size_t of) HWY_ATTR {
      return hn::PromoteTo(d16, hn::LoadU(hn::Rebind<uint8_t, DF>(), at + of * kPanelWidth));
    };
    return hn::PromoteTo(DF(),
                         hn::BitCast(DHalfF16(), hn::Or(byte(n), hn::ShiftLeft<8>(byte(n + 1)))));
#else
    const VI pair = hn::Or((*this)[n], hn::ShiftLeft<8>((*this)[n + 1]));
    return F16Value<0>(hn::BitCast(DU(), pair));
#endif
  }
};

HWY_INLINE VI Bits(VI from, int shift, int mask) {
  return hn::And(hn::ShiftRightSame(from, shift), hn::Set(DI(), mask));
}

// A run has the codes of two groups of 16 values, its parts.
constexpr size_t kRunParts = 2;
// In neighboring bytes.
struct ByteRuns {
  static constexpr size_t RunOf(size_t group) { return group / kRunParts; }
  static constexpr size_t PartOf(size_t group) { return group % kRunParts; }
  static constexpr size_t GroupOf(size_t run, size_t part) { return run * kRunParts + part; }
};
// Or in 16 bytes: those of a group in the low bits, and those of the group that is kApart groups
// farther on in the high ones.
template <size_t kAt, size_t kApart>
struct NibbleRuns {
  static constexpr size_t RunOf(size_t group) {
    return group / (2 * kApart) * kApart + group % kApart;
  }
  static constexpr size_t PartOf(size_t group) { return group / kApart % 2; }
  static constexpr size_t GroupOf(size_t run, size_t part) {
    return run / kApart * 2 * kApart + run % kApart + part * kApart;
  }
  template <size_t kPart>
  static HWY_INLINE VI NibbleOf(const LaneBytes& block, size_t run, size_t i) {
    const VI byte = block[kAt + run * kGroupValues + i];
    return kPart == 0 ? hn::And(byte, hn::Set(DI(), 15)) : hn::ShiftRight<4>(byte);
  }
  // The same as f32, where the code is no more than these four bits.
  template <size_t kPart>
  static HWY_INLINE VF NibbleValueOf(const LaneBytes& block, size_t run, size_t i) {
    if constexpr (kFindsCodes) {
      const VI byte = block[kAt + run * kGroupValues + i];
      return FindCodes(kNibbles, hn::BitCast(DU(), byte), 4 * kPart);
    } else {
      return hn::ConvertTo(DF(), NibbleOf<kPart>(block, run, i));
    }
  }
};
// The value of a code of more bits.
template <class Decoder, size_t kPart>
HWY_INLINE VF ConvertedCode(const LaneBytes& block, size_t run, size_t i) {
  return hn::ConvertTo(DF(), Decoder::template CodeOf<kPart>(block, run, i));
}

// The code of value i of part kPart of a run is CodeOf<kPart>(block, run, i), and ValueOf gives it
// as f32. ScalesOf calls put(s, scale, offset) for every kGroupsPerScale groups; where kHasOffset
// is false, offset is no part of a value.
template <WeightFormat kFormat>
struct LaneDecoder;

// Formats with one scale for a block of 32 values, and perhaps an offset behind it.
template <bool kOffset, int kLeast>
struct ScaledLanes {
  static constexpr bool kHasOffset = kOffset;
  static constexpr int kZero = kLeast;
  static constexpr size_t kGroupsPerScale = 2;
  template <class Put>
  static HWY_INLINE void ScalesOf(const LaneBytes& block, const Put& put) {
    put(0, block.Half(0), kOffset ? block.Half(2) : hn::Zero(DF()));
  }
};

template <>
struct LaneDecoder<WeightFormat::kQ8_0> : ByteRuns, ScaledLanes<false, 0> {
  template <size_t kPart>
  static HWY_INLINE VI CodeOf(const LaneBytes& block, size_t run, size_t i) {
    return block.Signed(2 + (run * kRunParts + kPart) * kGroupValues + i);
  }
  template <size_t kPart>
  static HWY_INLINE VF ValueOf(const LaneBytes& block, size_t run, size_t i) {
    return ConvertedCode<LaneDecoder, kPart>(block, run, i);
  }
};

template <size_t kAt, bool kOffset, int kLeast>
struct NibbleLanes : NibbleRuns<kAt, 1>, ScaledLanes<kOffset, kLeast> {
  template <size_t kPart>
  static HWY_INLINE VI CodeOf(const LaneBytes& block, size_t run, size_t i) {
    return NibbleRuns<kAt, 1>::template NibbleOf<kPart>(block, run, i);
  }
  template <size_t kPart>
  static HWY_INLINE VF ValueOf(const LaneBytes& block, size_t run, size_t i) {
    return NibbleRuns<kAt, 1>::template NibbleValueOf<kPart>(block, run, i);
  }
};
template <>
struct LaneDecoder<WeightFormat::kQ4_0> : NibbleLanes<2, false, 8> {};
template <>
struct LaneDecoder<WeightFormat::kQ4_1> : NibbleLanes<4, true, 0> {};

// With a fifth bit of each code in the four bytes before the others.
template <size_t kAt, bool kOffset, int kLeast>
struct FiveBitLanes : NibbleRuns<kAt, 1>, ScaledLanes<kOffset, kLeast> {
  template <size_t kPart>
  static HWY_INLINE VI CodeOf(const LaneBytes& block, size_t run, size_t i) {
    const VI low = NibbleRuns<kAt, 1>::template NibbleOf<kPart>(block, run, i);
    // One shift takes the bit to its place above the others.
    const VI eight = block[kAt - 4 + kPart * 2 + i / 8];
    const int bit = static_cast<int>(i % 8);
    const VI moved =
        bit < 4 ? hn::ShiftLeftSame(eight, 4 - bit) : hn::ShiftRightSame(eight, bit - 4);
    return hn::Or(low, hn::And(moved, hn::Set(DI(), 16)));
  }
  template <size_t kPart>
  static HWY_INLINE VF ValueOf(const LaneBytes& block, size_t run, size_t i) {
    return ConvertedCode<FiveBitLanes, kPart>(block, run, i);
  }
};
template <>
struct LaneDecoder<WeightFormat::kQ5_0> : FiveBitLanes<6, false, 16> {};
template <>
struct LaneDecoder<WeightFormat::kQ5_1> : FiveBitLanes<8, true, 0> {};

// Blocks of 256 values with 8 scales and 8 minima of 6 bits each.
struct MinimaLanes {
  static constexpr bool kHasOffset = true;
  static constexpr int kZero = 0;
  static constexpr size_t kGroupsPerScale = 2;
  template <class Put>
  static HWY_INLINE void ScalesOf(const LaneBytes& block, const Put& put) {
    const DF df;
    const VF scale = block.Half(0), least = hn::Neg(block.Half(2));
    for (size_t s = 0; s < 8; ++s) {
      const VI low = block[s < 4 ? 4 + s : 8 + s];
      VI code, minimum;
      if (s < 4) {
        code = hn::And(low, hn::Set(DI(), 63));
        minimum = hn::And(block[8 + s], hn::Set(DI(), 63));
      } else {
        const VI code_high = hn::ShiftRight<6>(block[s]);
        const VI minimum_high = hn::ShiftRight<6>(block[4 + s]);
        code = hn::Or(hn::And(low, hn::Set(DI(), 15)), hn::ShiftLeft<4>(code_high));
        minimum = hn::Or(hn::ShiftRight<4>(low), hn::ShiftLeft<4>(minimum_high));
      }
      put(s, hn::Mul(scale, hn::ConvertTo(df, code)), hn::Mul(least, hn::ConvertTo(df, minimum)));
    }
  }
};
template <>
struct LaneDecoder<WeightFormat::kQ4_K> : NibbleRuns<16, 2>, MinimaLanes {
  template <size_t kPart>
  static HWY_INLINE VI CodeOf(const LaneBytes& block, size_t run, size_t i) {
    return NibbleOf<kPart>(block, run, i);
  }
  template <size_t kPart>
  static HWY_INLINE VF ValueOf(const LaneBytes& block, size_t run, size_t i) {
    return NibbleValueOf<kPart>(block, run, i);
  }
};
template <>
struct LaneDecoder<WeightFormat::kQ5_K> : NibbleRuns<48, 2>, MinimaLanes {
  template <size_t kPart>
  static HWY_INLINE VI CodeOf(const LaneBytes& block, size_t run, size_t i) {
    const int bit = static_cast<int>(run / 2 * 2 + kPart);
    const VI high = Bits(block[16 + run % 2 * kGroupValues + i], bit, 1);
    return hn::Or(NibbleOf<kPart>(block, run, i), hn::ShiftLeft<4>(high));
  }
  template <size_t kPart>
  static HWY_INLINE VF ValueOf(const LaneBytes& block, size_t run, size_t i) {
    return ConvertedCode<LaneDecoder, kPart>(block, run, i);
  }
};

template <>
struct LaneDecoder<WeightFormat::kQ6_K> : NibbleRuns<0, 4> {
  static constexpr bool kHasOffset = false;
  static constexpr int kZero = 32;
  static constexpr size_t kGroupsPerScale = 1;
  template <class Put>
  static HWY_INLINE void ScalesOf(const LaneBytes& block, const Put& put) {
    const VF scale = block.Half(208);
    for (size_t s = 0; s < kMaxBlockValues / kGroupValues; ++s) {
      put(s, hn::Mul(scale, hn::ConvertTo(DF(), block.Signed(192 + s))), hn::Zero(DF()));
    }
  }
  template <size_t kPart>
  static HWY_INLINE VI CodeOf(const LaneBytes& block, size_t run, size_t i) {
    const VI high = Bits(HighByteOf(block, run, i), HighShift<kPart>(run), 3);
    return hn::Or(NibbleOf<kPart>(block, run, i), hn::ShiftLeft<4>(high));
  }
  template <size_t kPart>
  static HWY_INLINE VF ValueOf(const LaneBytes& block, size_t run, size_t i) {
    if constexpr (kFindsCodes) {
      // A shift of all lanes by a number that is no constant is two instructions, one by a vector
      // is one.
      const VI shift = hn::Set(DI(), HighShift<kPart>(run));
      const VI high = hn::Shr(HighByteOf(block, run, i), shift);
      return hn::Add(NibbleValueOf<kPart>(block, run, i),
                     FindCodes(kHighPairs, hn::BitCast(DU(), high)));
    } else {
      return ConvertedCode<LaneDecoder, kPart>(block, run, i);
    }
  }

 private:
  // The byte that has the two high bits of value i of both parts, and where they are in it.
  static HWY_INLINE VI HighByteOf(const LaneBytes& block, size_t run, size_t i) {
    const size_t group = GroupOf(run, 0);
    return block[128 + group / 8 * 32 + group % 2 * 16 + i];
  }
  template <size_t kPart>
  static constexpr int HighShift(size_t run) {
    return static_cast<int>(GroupOf(run, kPart) % 8 / 2 * 2);
  }
};

// The sizes of a block of the format.
template <class Decoder>
struct LaneSizes;
template <WeightFormat kFormat>
struct LaneSizes<LaneDecoder<kFormat>> {
  using Decoder = LaneDecoder<kFormat>;
  static constexpr size_t kBytes = static_cast<size_t>(TraitsOf(kFormat).block.bytes);
  static constexpr size_t kGroups = static_cast<size_t>(TraitsOf(kFormat).block.values) / 16;
  static constexpr size_t kRuns = kGroups / kRunParts;
  static constexpr size_t kScales = kGroups / Decoder::kGroupsPerScale;
  // Of a block of all outputs.
  static constexpr size_t kPanelBlock = kBytes * kPanelWidth;
};

// Calls use(LaneDecoder<format>()) where there is one, and returns whether there is.
template <class Use>
HWY_INLINE bool ForLanes(WeightFormat format, const Use& use) {
  switch (format) {
    case WeightFormat::kQ8_0:
      use(LaneDecoder<WeightFormat::kQ8_0>());
      return true;
    case WeightFormat::kQ4_0:
      use(LaneDecoder<WeightFormat::kQ4_0>());
      return true;
    case WeightFormat::kQ4_1:
      use(LaneDecoder<WeightFormat::kQ4_1>());
      return true;
    case WeightFormat::kQ5_0:
      use(LaneDecoder<WeightFormat::kQ5_0>());
      return true;
    case WeightFormat::kQ5_1:
      use(LaneDecoder<WeightFormat::kQ5_1>());
      return true;
    case WeightFormat::kQ4_K:
      use(LaneDecoder<WeightFormat::kQ4_K>());
      return true;
    case WeightFormat::kQ5_K:
      use(LaneDecoder<WeightFormat::kQ5_K>());
      return true;
    case WeightFormat::kQ6_K:
      use(LaneDecoder<WeightFormat::kQ6_K>());
      return true;
    default:
      return false;
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
