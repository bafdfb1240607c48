// Sums x over the dimensions that y has as 1 or lacks.
#include "backend/reference/broadcast.h"
#include "backend/reference/kernels.h"
#include "backend/reference/rows.h"

namespace lora::reference {

void Run(const ReduceSumArgs& args, Scratch, Context&) {
  Vector sums(static_cast<size_t>(args.y.numel()), 0.0);
  for (int64_t i = 0; i < args.x.numel(); ++i) {
    sums[static_cast<size_t>(BroadcastIndex(args.y.shape, args.x.shape, i))] += Load(args.x, i);
  }
  StoreRange(args.y, 0, sums);
}

template PlannedCall Plan(const ReduceSumArgs&, int);
}  // namespace lora::reference
