// AdamW on dequantized moments. The new ones are quantized to the nearest of all values, and to the
// lower of two that are as near. A second moment has the value 0 only where it is 0.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "backend/reference/adamw_element.h"
#include "backend/reference/kernels.h"
#include "backend/reference/stored_parameter.h"
#include "core/ops/element.h"

namespace lora::reference {
namespace {

using Values = std::array<float, 256>;

uint8_t NearestCode(const Values& values, bool keeps_above_zero, double x) {
  size_t best = keeps_above_zero && x > 0 ? 1 : 0;  // code 0 is the value 0
  for (size_t code = best + 1; code < values.size(); ++code) {
    const double nearer = std::fabs(values[best] - x) - std::fabs(values[code] - x);
    if (nearer > 0 || (nearer == 0 && values[code] < values[best])) best = code;
  }
  return static_cast<uint8_t>(best);
}

// Writes a block's codes and returns its scale.
float Quantize(const Values& values, bool keeps_above_zero, const std::vector<double>& block,
               uint8_t* codes) {
  std::fill_n(codes, kDynamicBlock, uint8_t{0});
  double largest = 0;
  for (const double x : block) {
    if (!std::isfinite(static_cast<float>(x))) return std::numeric_limits<float>::quiet_NaN();
    largest = std::max(largest, std::fabs(x));
  }
  const float scale = static_cast<float>(largest);
  if (scale == 0) return 0;
  for (size_t i = 0; i < block.size(); ++i)
    codes[i] = NearestCode(values, keeps_above_zero, block[i] / scale);
  return scale;
}

}  // namespace

void Run(const AdamW8bitArgs& args, Scratch, Context&) {
  for (const AdamW8bitSegment& segment : args.segments) {
    for (int64_t block = 0; block < segment.blocks(); ++block) {
      const int64_t begin = block * kDynamicBlock;
      const int64_t end = std::min(begin + kDynamicBlock, segment.param.numel());
      uint8_t* m_codes = segment.m_codes.as<uint8_t>() + begin;
      uint8_t* v_codes = segment.v_codes.as<uint8_t>() + begin;
      std::vector<double> ms, vs;
      for (int64_t i = begin; i < end; ++i) {
        double p = Load(segment.param, i);
        double m = Load(segment.m_scales, block) * kSignedValues[m_codes[i - begin]];
        double v = Load(segment.v_scales, block) * kUnsignedValues[v_codes[i - begin]];
        AdamWElement(args, Load(segment.grad, i), p, m, v);
        StoreParameter(segment, i, p);
        ms.push_back(m);
        vs.push_back(v);
      }
      Store(segment.m_scales, block, Quantize(kSignedValues, false, ms, m_codes));
      Store(segment.v_scales, block, Quantize(kUnsignedValues, true, vs, v_codes));
    }
  }
}

template PlannedCall Plan(const AdamW8bitArgs&, int);
}  // namespace lora::reference
