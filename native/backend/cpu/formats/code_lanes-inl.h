// LaneDecoders (block_lanes-inl.h) of formats whose scales lie apart: NF4, FP4 and rows of int8. A
// panel has 32-bit elements of its outputs side by side (pack.h), and the codes of 32 neighboring
// values of all outputs are a block here.
#if defined(LORA_BACKEND_CPU_FORMATS_CODE_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_FORMATS_CODE_LANES_INL_H_
#undef LORA_BACKEND_CPU_FORMATS_CODE_LANES_INL_H_
#else
#define LORA_BACKEND_CPU_FORMATS_CODE_LANES_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "backend/cpu/formats/block_lanes-inl.h"
#include "backend/cpu/formats/codes-inl.h"
#include "backend/cpu/formats/pack.h"
#include "backend/cpu/simd/simd-inl.h"
#include "core/maths/blocks.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

constexpr size_t kLaneBlockValues = kRunParts * kGroupValues;

// What decoders of elements share. kBits are those of a code.
template <size_t kBits>
struct ElementLanes {
  static constexpr size_t kPer = 32 / kBits, kBytes = kLaneBlockValues * kBits / 8;
  static constexpr size_t kGroupsPerScale = kRunParts;
  static constexpr bool kHasOffset = false;
  static constexpr int kZero = 0;
  static constexpr size_t GroupOf(size_t, size_t part) { return part; }
  // The element that has value i of a part.
  static HWY_INLINE VU ElementOf(const LaneBytes& block, size_t part, size_t i) {
    const size_t element = (part * kGroupValues + i) / kPer;
    return hn::LoadU(DU(), reinterpret_cast<const uint32_t*>(block.at) + element * kPanelWidth);
  }
};

template <const CodeTable& kTable>
struct TableLanes : ElementLanes<4> {
  template <size_t kPart>
  static HWY_INLINE VF ValueOf(const LaneBytes& block, size_t, size_t i) {
    return FindCodes(kTable, ElementOf(block, kPart, i), CodeShift(static_cast<int>(i % kPer)));
  }
};
template <>
struct LaneDecoder<WeightFormat::kNF4> : TableLanes<kNF4Codes> {};
template <>
struct LaneDecoder<WeightFormat::kFP4> : TableLanes<kFP4Codes> {};
template <>
struct LaneDecoder<WeightFormat::kI8Rows> : ElementLanes<8> {
  template <size_t kPart>
  static HWY_INLINE VF ValueOf(const LaneBytes& block, size_t, size_t i) {
    const VU element = ElementOf(block, kPart, i);
    if constexpr (kFindsCodes) {
      // Below the exponent of 2^23 a byte counts ones, and a second byte does below that of 2^15.
      // With its sign bit turned over it is the code + 128. One instruction makes these bits.
      const VU half = i % kPer < 2 ? element : hn::ShiftRight<16>(element);
      const bool second = i % 2 != 0;
      const VU byte = hn::And(half, hn::Set(DU(), second ? 0xff00u : 0xffu));
      const VU bits = hn::Xor(byte, hn::Set(DU(), second ? 0x47008000u : 0x4b000080u));
      return hn::Sub(hn::BitCast(DF(), bits),
                     hn::Set(DF(), second ? 0x1p15f + 128 : 0x1p23f + 128));
    }
    const VU top = hn::ShiftLeftSame(element, static_cast<int>(24 - 8 * (i % kPer)));
    return hn::ConvertTo(DF(), hn::ShiftRight<24>(hn::BitCast(DI(), top)));
  }
};

template <WeightFormat kFormat>
  requires(HasScales(kFormat))
struct LaneSizes<LaneDecoder<kFormat>> {
  static constexpr size_t kGroups = kRunParts, kRuns = 1, kScales = 1;
  static constexpr size_t kPanelBlock = LaneDecoder<kFormat>::kBytes * kPanelWidth;
};

// What is true of a decoder's format.
template <class Decoder>
struct LaneTraits;
template <WeightFormat kFormat>
struct LaneTraits<LaneDecoder<kFormat>> {
  // The scales lie apart from the codes.
  static constexpr bool kScalesApart = HasScales(kFormat);
  // From output to output.
  static constexpr size_t kLaneBytes = kScalesApart ? sizeof(uint32_t) : 1;
  // Codes are whole numbers that bf16 holds exactly, and not those of a table. (HasCodes is no
  // constant where GCC adds checks for undefined behavior.)
  static constexpr bool kWhole = kFormat != WeightFormat::kNF4 && kFormat != WeightFormat::kFP4;
};

// Calls use(LaneDecoder<format>()) where a decode step multiplies the codes of W, and returns
// whether it does. Rows that end within a block have scales that change within one.
template <class Use>
HWY_INLINE bool ForCodes(WeightFormat format, size_t columns, const Use& use) {
  if (!HasScales(format)) return ForLanes(format, use);
  if (columns % kLaneBlockValues != 0) return false;
  if (format == WeightFormat::kNF4) {
    use(LaneDecoder<WeightFormat::kNF4>());
  } else if (format == WeightFormat::kFP4) {
    use(LaneDecoder<WeightFormat::kFP4>());
  } else {
    use(LaneDecoder<WeightFormat::kI8Rows>());
  }
  return true;
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
