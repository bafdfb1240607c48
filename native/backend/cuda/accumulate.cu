#include "backend/cuda/any_elements.h"
#include "backend/cuda/device/accumulate.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {

void Run(const AccumulateArgs& args, Scratch, Context& context) {
  using Params = device::AccumulateParams;
  const Params params{Input("accumulate", args.x), Output("accumulate", args.y), args.y.numel()};
  Launch<device::Accumulate>("accumulate", context,
                             Blocks(params.count, Params::kThreads * Params::kPerThread), params);
}

template PlannedCall Plan(const AccumulateArgs&, int);
}  // namespace lora::cuda
