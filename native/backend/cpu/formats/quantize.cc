// Groups of values that share a scale are quantized by themselves: one pass for the magnitude and
// one for the values, of which the second finds them in the cache.
#include "core/maths/quantize.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/formats/quantize.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/simd/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
namespace {

// Calls use(i, n, x) for the values [begin + i, begin + i + n) in f32.
template <class Use>
HWY_INLINE void ForBlocks(const TensorView& src, size_t begin, size_t end, const Use& use) {
  float buffer[kBlock];
  for (size_t i = begin; i < end; i += kBlock) {
    const size_t n = std::min(kBlock, end - i);
    use(i, n, ReadBlock(src.data, src.dtype, i, n, buffer));
  }
}

// Returns the largest bits of |x|.
HWY_INLINE uint32_t LargestBits(const float* x, size_t n) {
  const DU du;
  const VU all_but_sign = hn::Set(du, 0x7fffffffu);
  VU largest = hn::Zero(du);
  const auto* bits = reinterpret_cast<const uint32_t*>(x);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    largest = hn::Max(largest, hn::And(hn::LoadU(du, bits + i), all_but_sign));
  if (i < n) largest = hn::Max(largest, hn::And(hn::LoadN(du, bits + i, n - i), all_but_sign));
  return hn::ReduceMax(du, largest);
}

// Returns u of the values at x, of which n are left.
HWY_INLINE VF OverMagnitudes(const float* from, size_t n, float inverse) {
  const DF df;
  const VF x = n >= kLanes ? ReadVec(from) : ReadPart(from, n);
  return hn::IfThenZeroElse(hn::Eq(x, hn::Zero(df)), hn::Mul(x, hn::Set(df, inverse)));
}

// bytes [CeilDiv(n, 2)] ← the codes of x [n], where n is at most kBlock.
HWY_INLINE void CodesOf(const CodeOrder& order, const float* x, size_t n, float inverse,
                        uint8_t* bytes) {
  const DF df;
  const DI di;
  HWY_ALIGN int32_t ranks[kBlock + 1];
  for (size_t i = 0; i < n; i += kLanes) {
    const VF u = OverMagnitudes(x + i, n - i, inverse);
    VI rank = hn::Zero(di);
    HWY_UNROLL(kCodes - 1)
    for (size_t c = 0; c + 1 < kCodes; ++c)  // a mask is −1 where it is set
      rank = hn::Sub(
          rank, hn::VecFromMask(di, hn::RebindMask(di, hn::Gt(u, hn::Set(df, order.middles[c])))));
    hn::StoreU(rank, di, ranks + i);
  }
  for (size_t i = 0; i + 1 < n; i += 2)
    bytes[i / 2] = static_cast<uint8_t>(order.codes[ranks[i]] << 4 | order.codes[ranks[i + 1]]);
  if (n % 2 == 1) bytes[n / 2] = static_cast<uint8_t>(order.codes[ranks[n - 1]] << 4);
}

HWY_INLINE void IntegersOf(const float* x, size_t n, float inverse, int8_t* q) {
  const DF df;
  const hn::Rebind<int8_t, DF> d8;
  for (size_t i = 0; i < n; i += kLanes) {
    const size_t count = std::min(kLanes, n - i);
    const VF u = OverMagnitudes(x + i, n - i, inverse);
    const auto rounded = hn::NearestInt(hn::Mul(u, hn::Set(df, kInt8Range)));
    hn::StoreN(hn::DemoteTo(d8, rounded), d8, q + i, count);
  }
}

}  // namespace

void QuantizeGroups(const QuantizeArgs& args, size_t group, size_t begin, size_t end) {
  const FormatTraits& format = TraitsOf(args.format);
  const size_t count = static_cast<size_t>(args.src.numel());
  const CodeOrder order = format.codes ? OrderOf(*format.codes) : CodeOrder{};
  for (size_t g = begin; g < end; ++g) {
    const size_t from = g * group, to = std::min(from + group, count);
    uint32_t bits = 0;
    ForBlocks(args.src, from, to, [&](size_t, size_t n, const float* x) HWY_ATTR {
      bits = std::max(bits, LargestBits(x, n));
    });
    const float magnitude = MagnitudeOfBits(bits);
    args.magnitudes.as<float>()[g] = magnitude;
    const bool finite = std::isfinite(magnitude);
    const float inverse = 1.0f / magnitude;
    ForBlocks(args.src, from, to, [&](size_t i, size_t n, const float* x) HWY_ATTR {
      HWY_ALIGN static constexpr float kZeros[kBlock] = {};
      const float* values = finite ? x : kZeros;
      if (format.codes) {
        CodesOf(order, values, n, inverse, args.values.as<uint8_t>() + i / 2);
      } else {
        IntegersOf(values, n, inverse, args.values.as<int8_t>() + i);
      }
    });
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(QuantizeGroups);

void Run(const QuantizeArgs& args, Scratch, Context& context) {
  const bool rows = TraitsOf(args.format).scales == Scales::kRows;
  const size_t group = rows ? static_cast<size_t>(args.cols()) : kBlockValues;
  const size_t groups = static_cast<size_t>(args.magnitudes.numel());
  ForRows(context, groups, group, kCostlyGrain, [&](size_t begin, size_t end) {
    HWY_DYNAMIC_DISPATCH(QuantizeGroups)(args, group, begin, end);
  });
}

template PlannedCall Plan(const QuantizeArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
