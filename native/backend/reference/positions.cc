// positions[b, i] = max(lengths[b] − s + i, 0).
#include "backend/reference/kernels.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const PositionsArgs& args, Scratch, Context&) {
  for (int64_t i = 0; i < args.positions.numel(); ++i)
    Store(args.positions, i, PositionAt(args.lengths, args.count, i));
}

template PlannedCall Plan(const PositionsArgs&, int);
}  // namespace lora::reference
