// y ← y + x.
#include "backend/reference/kernels.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const AccumulateArgs& args, Scratch, Context&) {
  for (int64_t i = 0; i < args.y.numel(); ++i) {
    Store(args.y, i, Load(args.y, i) + Load(args.x, i));
  }
}

template PlannedCall Plan(const AccumulateArgs&, int);
}  // namespace lora::reference
