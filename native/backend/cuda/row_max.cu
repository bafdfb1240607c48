#include "backend/cuda/any_elements.h"
#include "backend/cuda/device/row_max.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {

void Run(const RowMaxArgs& args, Scratch, Context& context) {
  using Params = device::RowMaxParams;
  const Params params{Input("row_max", args.x),  Data<float>(args.max), Data<int32_t>(args.index),
                      Data<float>(args.log_sum), args.x.dim(0),         args.x.dim(1)};
  // Rows up to 2048 are read by one warp in a few turns.
  if (params.d <= 2048) {
    return Launch<device::RowMax<32>>("row_max", context,
                                      Blocks(params.rows, Params::kThreads / 32), params);
  }
  Launch<device::RowMax<Params::kThreads>>("row_max", context, Blocks(params.rows, 1), params);
}

template PlannedCall Plan(const RowMaxArgs&, int);
}  // namespace lora::cuda
