// y ← value.
#include "backend/reference/kernels.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const FillArgs& args, Scratch, Context&) {
  for (int64_t i = 0; i < args.y.numel(); ++i) Store(args.y, i, args.value);
}

template PlannedCall Plan(const FillArgs&, int);
}  // namespace lora::reference
