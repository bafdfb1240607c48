#include <cstddef>
#include <vector>

#include "backend/cuda/device/positions.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {

void Run(const PositionsArgs& args, Scratch, Context& context) {
  using Params = device::PositionsParams;
  const TensorView& positions = args.positions;
  Launch<device::Positions>(
      "positions", context, Blocks(positions.numel(), Params::kThreads),
      Params{Data<int32_t>(args.lengths), Data<int32_t>(positions), positions.dim(0), args.count});
  // Where the host knows the lengths, it also knows the positions: who looks them up need not wait.
  const TensorView lengths = args.lengths.on_host();
  if (!lengths || positions.host_copy == nullptr) return;
  std::vector<int32_t> values(static_cast<size_t>(positions.numel()));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = PositionAt(lengths, args.count, static_cast<int64_t>(i));
  positions.host_copy->Wrote(positions.data, values.data(), positions.bytes());
}

template PlannedCall Plan(const PositionsArgs&, int);
}  // namespace lora::cuda
