// A thread takes whole blocks of 256 elements: their moments become f32 in L1, the rule of AdamW
// updates them there, and they become codes again. One pass reads 10 bytes per element of p, g and
// the codes, and writes 6.
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/cpu/kernels.h"
#include "backend/cpu/optimizers/segments.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/optimizers/adamw8bit.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/optimizers/adamw-inl.h"
#include "backend/cpu/optimizers/step-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
namespace {

using DQuarterU8 = hn::Rebind<uint8_t, DF>;
constexpr size_t kCodes = static_cast<size_t>(kDynamicBlock);

void Dequantize(const std::array<float, 256>& values, const uint8_t* codes, float scale,
                float* HWY_RESTRICT block) {
  const DF d;
  for (size_t i = 0; i < kCodes; i += kLanes) {
    const auto indices = hn::PromoteTo(DI(), hn::LoadU(DQuarterU8(), codes + i));
    hn::StoreU(hn::Mul(hn::GatherIndex(d, values.data(), indices), hn::Set(d, scale)), d,
               block + i);
  }
}

// Returns the largest magnitude, or NaN. Bits of magnitudes are in the order of their values, and
// those of NaN are above those of infinity.
float Largest(const float* block) {
  const DF d;
  const DI di;
  auto largest = hn::Zero(di);
  for (size_t i = 0; i < kCodes; i += kLanes)
    largest = hn::Max(largest, hn::BitCast(di, hn::Abs(hn::LoadU(d, block + i))));
  const float value = std::bit_cast<float>(hn::ReduceMax(di, largest));
  return std::isfinite(value) ? value : std::numeric_limits<float>::quiet_NaN();
}

// Writes a block's codes, as DynamicCode gives them, and returns its scale.
float Quantize(const DynamicTree& tree, const float* block, uint8_t* codes) {
  const DF d;
  const DI di;
  const float scale = Largest(block);
  if (!(scale > 0)) {
    std::memset(codes, 0, kCodes);
    return scale;
  }
  const VF one_code = hn::Set(d, tree.has_sign != 0 ? 128.0f : 1.0f);
  for (size_t i = 0; i < kCodes; i += kLanes) {
    const VF x = hn::Div(hn::LoadU(d, block + i), hn::Set(d, scale));
    const VF a = hn::Abs(x);
    VF slope = hn::Set(d, tree.slope[0]);
    VF places = hn::Set(d, static_cast<float>(tree.first));
    for (int decade = 1; decade < DynamicTree::kDecades; ++decade) {
      const auto in = hn::Gt(a, hn::Set(d, tree.above[decade]));
      slope = hn::IfThenElse(in, hn::Set(d, tree.slope[decade]), slope);
      places = hn::IfThenElse(in, hn::Set(d, static_cast<float>(tree.first << decade)), places);
    }
    const VF place = hn::MulAdd(slope, a, hn::Mul(places, hn::Set(d, 8.0f / 9.0f)));
    const VF last = hn::Sub(hn::Add(places, places), hn::Set(d, 1.0f));
    VF code = hn::Min(hn::Max(place, places), last);
    code = hn::IfThenElse(hn::Gt(x, hn::Set(d, tree.one)), one_code, code);
    code = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Add(code, hn::Set(d, 128.0f)), code);
    code = hn::IfThenZeroElse(hn::Le(a, hn::Set(d, tree.zero)), code);
    hn::StoreU(hn::DemoteTo(DQuarterU8(), hn::ConvertTo(di, code)), DQuarterU8(), codes + i);
  }
  return scale;
}

}  // namespace

void AdamW8bitBlocks(const AdamW8bitSegment& segment, const AdamWFactors& factors, size_t begin,
                     size_t end) {
  const size_t count = static_cast<size_t>(segment.param.numel());
  float* const m_scales = segment.m_scales.as<float>();
  float* const v_scales = segment.v_scales.as<float>();
  HWY_ALIGN float m[kCodes];
  HWY_ALIGN float v[kCodes];
  for (size_t block = begin; block < end; ++block) {
    const size_t first = block * kCodes, n = std::min(kCodes, count - first);
    uint8_t* const m_codes = segment.m_codes.as<uint8_t>() + first;
    uint8_t* const v_codes = segment.v_codes.as<uint8_t>() + first;
    Dequantize(kSignedValues, m_codes, m_scales[block], m);
    Dequantize(kUnsignedValues, v_codes, v_scales[block], v);
    StepSegment(AdamWRule{factors}, segment, first, first + n, m, v);
    std::fill(m + n, m + kCodes, 0.0f);
    std::fill(v + n, v + kCodes, 0.0f);
    m_scales[block] = Quantize(kSignedTree, m, m_codes);
    v_scales[block] = Quantize(kUnsignedTree, v, v_codes);
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(AdamW8bitBlocks);

void Run(const AdamW8bitArgs& args, Scratch, Context& context) {
  const AdamWFactors factors = FactorsOf(args);
  ForSegments(
      context, args.segments, kCostlyGrain / kDynamicBlock, 1,
      [](const AdamW8bitSegment& segment) { return static_cast<size_t>(segment.blocks()); },
      [&](const AdamW8bitSegment& segment, size_t begin, size_t end) {
        HWY_DYNAMIC_DISPATCH(AdamW8bitBlocks)(segment, factors, begin, end);
      });
}

template PlannedCall Plan(const AdamW8bitArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
