#include "backend/cuda/any_elements.h"
#include "backend/cuda/device/layer_norm.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {
namespace {

// Calls f<threads per row>(shape). Rows up to 2048 are read by one warp in a few turns.
template <class F>
void ForRowsOf(int64_t rows, int64_t d, F&& f) {
  constexpr int kThreads = device::LayerNormParams::kThreads;
  if (d <= 2048) return f.template operator()<32>(Blocks(rows, kThreads / 32));
  f.template operator()<kThreads>(Blocks(rows, 1));
}

}  // namespace

void Run(const LayerNormForwardArgs& args, Scratch, Context& context) {
  const device::LayerNormParams params{Input("layer_norm", args.x),
                                       Input("layer_norm", args.weight),
                                       Input("layer_norm", args.bias),
                                       Output("layer_norm", args.y),
                                       Data<float>(args.mean),
                                       Data<float>(args.rstd),
                                       args.x.dim(0),
                                       args.x.dim(1),
                                       args.eps};
  ForRowsOf(params.rows, params.d, [&]<int kWidth>(const device::LaunchShape& shape) {
    Launch<device::LayerNorm<kWidth>>("layer_norm", context, shape, params);
  });
}

void Run(const LayerNormBackwardArgs& args, Scratch, Context& context) {
  const device::LayerNormBackwardParams params{Input("layer_norm", args.x),
                                               Input("layer_norm", args.weight),
                                               Input("layer_norm", args.g),
                                               Output("layer_norm", args.dx),
                                               Data<const float>(args.mean),
                                               Data<const float>(args.rstd),
                                               args.x.dim(0),
                                               args.x.dim(1)};
  ForRowsOf(params.rows, params.d, [&]<int kWidth>(const device::LaunchShape& shape) {
    Launch<device::LayerNormBackward<kWidth>>("layer_norm", context, shape, params);
  });
}

template PlannedCall Plan(const LayerNormForwardArgs&, int);
template PlannedCall Plan(const LayerNormBackwardArgs&, int);
}  // namespace lora::cuda
