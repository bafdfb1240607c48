#include "backend/cuda/device/dropout.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {

void Run(const DropoutArgs& args, Scratch, Context& context) {
  ForFloat(args.x.dtype, [&]<class T>() {
    using Params = device::DropoutParams<T>;
    const Dropout& dropout = args.dropout;
    const uint32_t threshold = DropoutThreshold(dropout.p);
    const Params params{Data<const T>(args.x), Data<T>(args.y), args.x.dim(0),
                        args.x.dim(1),         dropout.seed,    dropout.layer,
                        dropout.forward,       threshold,       DropoutScale(threshold)};
    const int64_t groups = params.rows * CeilDiv(params.columns, int64_t{Params::kPerThread});
    Launch<device::DropRows<T>>("dropout", context, Blocks(groups, Params::kThreads), params);
  });
}

template PlannedCall Plan(const DropoutArgs&, int);
}  // namespace lora::cuda
