#include <bit>
#include <cmath>
#include <cstdint>

#include "backend/cuda/device/fill.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {
namespace {

// Truncates towards zero and clamps to the range of int32_t; NaN gives 0.
int32_t WholeNumber(float value) {
  if (std::isnan(value)) return 0;
  if (value <= -0x1p31f) return INT32_MIN;
  if (value >= 0x1p31f) return INT32_MAX;
  return static_cast<int32_t>(value);
}

}  // namespace

void Run(const FillArgs& args, Scratch scratch, Context& context) {
  if (args.y.dtype == DType::kI32) {  // a float of the same bits
    FillArgs bits = args;
    bits.y.dtype = DType::kF32;
    bits.value = std::bit_cast<float>(WholeNumber(args.value));
    return Run(bits, scratch, context);
  }
  ForFloat(args.y.dtype, [&]<class T>() {
    using Params = device::FillParams<T>;
    const Params params{Data<T>(args.y), args.y.numel(), args.value};
    Launch<device::Fill<T>>("fill", context,
                            Blocks(params.count, Params::kThreads * Params::kPerThread), params);
  });
}

template PlannedCall Plan(const FillArgs&, int);
}  // namespace lora::cuda
