// q and the magnitudes of groups, one value after the other.
#include "core/maths/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "backend/reference/kernels.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const QuantizeArgs& args, Scratch, Context&) {
  const FormatTraits& format = TraitsOf(args.format);
  const int64_t count = args.src.numel();
  const int64_t group = format.scales == Scales::kRows ? args.cols() : kBlockValues;
  const CodeOrder order = format.codes ? OrderOf(*format.codes) : CodeOrder{};
  for (int64_t g = 0; g < args.magnitudes.numel(); ++g) {
    const int64_t begin = g * group, end = std::min(begin + group, count);
    uint32_t bits = 0;
    for (int64_t i = begin; i < end; ++i)
      bits = std::max(bits,
                      std::bit_cast<uint32_t>(static_cast<float>(Load(args.src, i))) & 0x7fffffffu);
    const float magnitude = MagnitudeOfBits(bits);
    Store(args.magnitudes, g, magnitude);
    const auto over = [&](int64_t i) {
      return i < end && std::isfinite(magnitude)
                 ? OverMagnitude(static_cast<float>(Load(args.src, i)), 1.0f / magnitude)
                 : 0.0f;
    };
    if (format.codes == nullptr) {
      for (int64_t i = begin; i < end; ++i)
        Store(args.values, i, std::nearbyint(over(i) * kInt8Range));
    } else {
      for (int64_t i = begin; i < end; i += 2) {
        const uint32_t byte =
            CodeOf(order, over(i)) << 4 | (i + 1 < end ? CodeOf(order, over(i + 1)) : 0);
        Store(args.values, i / 2, static_cast<int8_t>(byte));
      }
    }
  }
}

template PlannedCall Plan(const QuantizeArgs&, int);
}  // namespace lora::reference
