#include <cmath>
#include <limits>

#include "backend/cuda/device/random.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {

void Run(const RandomArgs& args, Scratch, Context& context) {
  // In an empty interval no number is too large.
  const float top = args.hi > args.lo ? args.hi : std::numeric_limits<float>::infinity();
  const device::RandomParams params{
      Data<float>(args.y),         args.y.numel(), args.seed, args.stream, args.lo, args.hi, top,
      std::nextafter(top, args.lo)};
  const device::LaunchShape shape = Blocks(params.count, device::RandomParams::kThreads * 4);
  if (args.kind == RandomKind::kNormal) {
    Launch<device::Random<true>>("random", context, shape, params);
  } else {
    Launch<device::Random<false>>("random", context, shape, params);
  }
}

template PlannedCall Plan(const RandomArgs&, int);
}  // namespace lora::cuda
