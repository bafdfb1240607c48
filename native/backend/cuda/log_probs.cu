#include "backend/cuda/device/log_probs.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {

void Run(const LogProbsArgs& args, Scratch, Context& context) {
  ForFloat(args.logits.dtype, [&]<class T>() {
    using Params = device::LogProbsParams<T>;
    Launch<device::LogProbs<T>>("log_probs", context, Blocks(args.logits.dim(0), 1),
                                Params{Data<const T>(args.logits), args.logits.dim(1),
                                       static_cast<int32_t>(args.n), Data<const int32_t>(args.ids),
                                       Data<float>(args.values), Data<int32_t>(args.top_ids)});
  });
}

template PlannedCall Plan(const LogProbsArgs&, int);
}  // namespace lora::cuda
