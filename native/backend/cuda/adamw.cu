#include <cmath>

#include "backend/cuda/device/adamw.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/segments.h"

namespace lora::cuda {

void Run(const AdamWArgs& args, Scratch, Context& context) {
  using Params = device::AdamWParams;
  using List = decltype(Params::list);
  const double steps = static_cast<double>(args.step);
  device::AdamWFactors factors;
  factors.decay = static_cast<float>(1 - args.lr * args.weight_decay);
  factors.beta1 = static_cast<float>(args.beta1);
  factors.new1 = static_cast<float>(1 - args.beta1);
  factors.beta2 = static_cast<float>(args.beta2);
  factors.new2 = static_cast<float>(1 - args.beta2);
  factors.rsqrt_correction2 = static_cast<float>(1 / std::sqrt(1 - std::pow(args.beta2, steps)));
  factors.eps = static_cast<float>(args.eps);
  factors.step_size = static_cast<float>(args.lr / (1 - std::pow(args.beta1, steps)));
  ForSegmentLists<List, Params::kPerBlock>(
      args.segments.size(),
      [&](size_t i) {
        const AdamWArgs::Segment& s = args.segments[i];
        return List::Segment{
            {Data<float>(s.param), Data<float>(s.grad), Data<float>(s.m), Data<float>(s.v)},
            s.param.numel()};
      },
      [&](const List& list, int64_t blocks) {
        Launch<device::AdamW>("adamw", context, Blocks(blocks, 1), Params{list, factors});
      });
}

}  // namespace lora::cuda
