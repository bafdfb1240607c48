// positions[b, i] = max(lengths[b] − s + i, 0). There are few, so that one thread writes them.
#include "backend/cpu/kernels.h"

namespace lora::cpu {

void Run(const PositionsArgs& args, Scratch, Context&) {
  for (int64_t i = 0; i < args.positions.numel(); ++i)
    args.positions.as<int32_t>()[i] = PositionAt(args.lengths, args.count, i);
}

template PlannedCall Plan(const PositionsArgs&, int);
}  // namespace lora::cpu
