// The two kinds of operands that the products of a decode step are computed from
// (attention_decode-inl.h).
#if defined(LORA_BACKEND_CPU_ATTENTION_ATTENTION_OPERANDS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_ATTENTION_ATTENTION_OPERANDS_INL_H_
#undef LORA_BACKEND_CPU_ATTENTION_ATTENTION_OPERANDS_INL_H_
#else
#define LORA_BACKEND_CPU_ATTENTION_ATTENTION_OPERANDS_INL_H_
#endif

#include <cstring>
#include <type_traits>

#include "backend/cpu/attention/attention-inl.h"
#include "backend/cpu/runtime/context.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// 2·kLanes columns of a row, in two vectors: values, or sums.
struct Columns {
  VF first, second;
};

// Both kinds have
//   T, Query, Weight   the types of k and v, of q in scratch, and of P
//   Row, Load          2·kLanes columns of a key, of which only `count` exist unless kWhole
//   Values, LoadValues the same columns of the values of kKeys keys, of which only `keys` exist
//   Dot, Add           add a product to a sum: of q and a key, or of P and values
//   InOrder            puts the columns of two sums into the order of memory
//   kScalesScores      whether the softmax scale is applied to the scores, or else to q

// Operands of f32. bf16 is widened in registers: the even columns become the first vector and the
// odd ones the second, because that takes a shift and a mask where the order of memory would take
// shuffles. q is stored in the same order.
template <class Element>
struct WidenedOperands {
  using T = Element;
  using Query = float;
  using Weight = float;
  using Row = Columns;
  using Values = Columns;
  static constexpr size_t kKeys = 1;
  static constexpr bool kScalesScores = false;

  template <bool kWhole>
  static HWY_INLINE Columns Load(const float* from, size_t count) {
    const DF df;
    const bool whole = kWhole || count >= 2 * kLanes;
    const size_t beyond = count > kLanes ? count - kLanes : 0;
    return {whole ? hn::LoadU(df, from) : hn::LoadN(df, from, count),
            whole ? hn::LoadU(df, from + kLanes) : hn::LoadN(df, from + kLanes, beyond)};
  }
  template <bool kWhole>
  static HWY_INLINE Columns Load(const hwy::bfloat16_t* from, size_t count) {
    const DF df;
    const DBF dh;
    const bool whole = kWhole || count >= 2 * kLanes;
    const VU v = hn::BitCast(DU(), whole ? hn::LoadU(dh, from) : hn::LoadN(dh, from, count));
    return {hn::BitCast(df, hn::ShiftLeft<16>(v)),
            hn::BitCast(df, hn::And(v, hn::Set(DU(), 0xffff0000u)))};
  }
  static HWY_INLINE VF Dot(const float* q, const Row& key, VF sum) {
    sum = hn::MulAdd(key.first, hn::LoadU(DF(), q), sum);
    return hn::MulAdd(key.second, hn::LoadU(DF(), q + kLanes), sum);
  }

  template <bool kWhole>
  static HWY_INLINE Values LoadValues(const T* from, size_t /*stride*/, size_t /*keys*/,
                                      size_t count) {
    return Load<kWhole>(from, count);
  }
  static HWY_INLINE VF Broadcast(const float* p) { return hn::Set(DF(), *p); }
  static HWY_INLINE VF Add(VF p, VF values, VF sum) { return hn::MulAdd(p, values, sum); }
  static HWY_INLINE Columns InOrder(VF first, VF second) {
    if constexpr (std::is_same_v<T, float>) return {first, second};
    const DF df;
    return {hn::InterleaveWholeLower(df, first, second),
            hn::InterleaveWholeUpper(df, first, second)};
  }

  static size_t QueryStride(const AttentionShape& s) { return RoundUp(s.d, 2 * kLanes); }
  static HWY_INLINE void StoreQuery(const AttentionShape& s, const T* from, float* to) {
    const DF df;
    const VF scale = hn::Set(df, s.scale * kLog2E);
    for (size_t i = 0; i < s.d; i += 2 * kLanes) {
      const Columns row = Load<false>(from + i, s.d - i);
      hn::StoreU(hn::Mul(scale, row.first), df, to + i);
      hn::StoreU(hn::Mul(scale, row.second), df, to + i + kLanes);
    }
  }
  // P takes the place of the scores.
  static Weight* Weights(const DecodeScratch& scratch) { return scratch.scores; }
};

// Operands of bf16 where one instruction multiplies pairs and adds both products. For the scores a
// pair is two neighboring columns of a key; for the outputs it is one column of two neighboring
// keys, and P is rounded to bf16.
struct PairOperands {
  using T = hwy::bfloat16_t;
  using Query = T;
  using Weight = T;
  using Row = VU;
  struct Values {
    VU first, second;
  };
  static constexpr size_t kKeys = 2;
  static constexpr bool kScalesScores = true;

  template <bool kWhole>
  static HWY_INLINE VU Load(const T* from, size_t count) {
    const DBF dh;
    const bool whole = kWhole || count >= 2 * kLanes;
    return hn::BitCast(DU(), whole ? hn::LoadU(dh, from) : hn::LoadN(dh, from, count));
  }
  static HWY_INLINE VF Dot(const T* q, VU key, VF sum) {
    return MulAddElements<true>(Load<true>(q, 2 * kLanes), key, sum);
  }

  template <bool kWhole>
  static HWY_INLINE Values LoadValues(const T* from, size_t stride, size_t keys, size_t count) {
    const DU16 dw;
    const auto second = keys > 1 ? Load<kWhole>(from + stride, count) : hn::Zero(DU());
    const RowPairs pairs(hn::BitCast(dw, Load<kWhole>(from, count)), hn::BitCast(dw, second));
    return {pairs.lower, pairs.upper};
  }
  static HWY_INLINE VU Broadcast(const T* p) {  // of an even key
    return hn::Set(DU(), *reinterpret_cast<const uint32_t*>(p));
  }
  static HWY_INLINE VF Add(VU p, VU values, VF sum) { return MulAddElements<true>(p, values, sum); }
  static HWY_INLINE Columns InOrder(VF lower, VF upper) {
    HWY_ALIGN float columns[2 * kLanes];
    StoreColumns(lower, upper, columns);
    return {hn::Load(DF(), columns), hn::Load(DF(), columns + kLanes)};
  }

  static size_t QueryStride(const AttentionShape& s) { return 2 * s.padded; }
  static void StoreQuery(const AttentionShape& s, const T* from, T* to) {
    std::memcpy(to, from, s.d * sizeof(T));
    std::memset(to + s.d, 0, (2 * s.padded - s.d) * sizeof(T));
  }
  static Weight* Weights(const DecodeScratch& scratch) {
    return reinterpret_cast<Weight*>(scratch.p);
  }
};

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
