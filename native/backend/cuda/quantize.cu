#include "backend/cuda/device/quantize.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {

void Run(const QuantizeArgs& args, Scratch, Context& context) {
  const FormatTraits& format = TraitsOf(args.format);
  const int64_t group = format.scales == Scales::kRows ? args.cols() : kBlockValues;
  ForFloat(args.src.dtype, [&]<class T>() {
    using Params = device::QuantizeParams<T>;
    const Params params{.x = Data<T>(args.src),
                        .values = Data<uint8_t>(args.values),
                        .magnitudes = Data<float>(args.magnitudes),
                        .count = args.src.numel(),
                        .group = group,
                        .groups = args.magnitudes.numel(),
                        .order = format.codes ? OrderOf(*format.codes) : CodeOrder{},
                        .has_codes = format.codes != nullptr};
    Launch<device::GroupMagnitudes<T>>("quantize", context,
                                       Blocks(params.groups, Params::kGroupsPerBlock), params);
    Launch<device::QuantizeValues<T>>(
        "quantize", context, Blocks(params.count, Params::kThreads * Params::kPerThread), params);
  });
}

template PlannedCall Plan(const QuantizeArgs&, int);
}  // namespace lora::cuda
