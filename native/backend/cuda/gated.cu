#include "backend/cuda/device/gated.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {

void Run(const GatedForwardArgs& args, Scratch, Context& context) {
  ForFloat(args.y.dtype, [&]<class T>() {
    using Params = device::GatedParams<T>;
    const Params params{Data<const T>(args.gate), Data<const T>(args.up), Data<T>(args.y),
                        args.y.numel(), args.kind};
    Launch<device::Gated<T>>("gated", context,
                             Blocks(params.count, Params::kThreads * Params::kPerThread), params);
  });
}

void Run(const GatedBackwardArgs& args, Scratch, Context& context) {
  ForFloat(args.g.dtype, [&]<class T>() {
    using Params = device::GatedBackwardParams<T>;
    const Params params{Data<const T>(args.gate), Data<const T>(args.up),
                        Data<const T>(args.g),    Data<T>(args.dgate),
                        Data<T>(args.dup),        Data<T>(args.y),
                        args.g.numel(),           args.kind};
    Launch<device::GatedBackward<T>>(
        "gated", context, Blocks(params.count, Params::kThreads * Params::kPerThread), params);
  });
}

template PlannedCall Plan(const GatedForwardArgs&, int);
template PlannedCall Plan(const GatedBackwardArgs&, int);
}  // namespace lora::cuda
