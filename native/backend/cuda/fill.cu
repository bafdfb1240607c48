#include "backend/cuda/device/fill.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {

void Fill(const FillArgs& args, Scratch, Context& context) {
  ForFloat(args.y.dtype, [&]<class T>() {
    using Params = device::FillParams<T>;
    const Params params{Data<T>(args.y), args.y.numel(), args.value};
    Launch<device::Fill<T>>("fill", context,
                            Blocks(params.count, Params::kThreads * Params::kPerThread), params);
  });
}

}  // namespace lora::cuda
