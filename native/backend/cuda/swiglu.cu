#include "backend/cuda/device/swiglu.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {

void Run(const SwigluForwardArgs& args, Scratch, Context& context) {
  ForFloat(args.y.dtype, [&]<class T>() {
    using Params = device::SwigluParams<T>;
    const Params params{Data<const T>(args.gate), Data<const T>(args.up), Data<T>(args.y),
                        args.y.numel()};
    Launch<device::Swiglu<T>>("swiglu", context,
                              Blocks(params.count, Params::kThreads * Params::kPerThread), params);
  });
}

void Run(const SwigluBackwardArgs& args, Scratch, Context& context) {
  ForFloat(args.g.dtype, [&]<class T>() {
    using Params = device::SwigluBackwardParams<T>;
    const Params params{Data<const T>(args.gate),
                        Data<const T>(args.up),
                        Data<const T>(args.g),
                        Data<T>(args.dgate),
                        Data<T>(args.dup),
                        Data<T>(args.y),
                        args.g.numel()};
    Launch<device::SwigluBackward<T>>(
        "swiglu", context, Blocks(params.count, Params::kThreads * Params::kPerThread), params);
  });
}

template PlannedCall Plan(const SwigluForwardArgs&, int);
template PlannedCall Plan(const SwigluBackwardArgs&, int);
}  // namespace lora::cuda
