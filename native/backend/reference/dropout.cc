// y = drop(x), row by row.
#include "backend/reference/kernels.h"
#include "backend/reference/rows.h"

namespace lora::reference {

void Run(const DropoutArgs& args, Scratch, Context&) {
  for (int64_t row = 0; row < args.x.dim(0); ++row)
    StoreRange(args.y, row * args.y.dim(1), DroppedRow(args.x, row, args.dropout));
}

template PlannedCall Plan(const DropoutArgs&, int);
}  // namespace lora::reference
