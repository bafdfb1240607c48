#include "core/ops/random.h"

#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"

namespace lora::cpu {

void Run(const RandomArgs& args, Scratch, Context& context) {
  ForRange(context, static_cast<size_t>(args.y.numel()), kCostlyGrain, kLineElements,
           [&](size_t begin, size_t end) {
             RandomElements(args, static_cast<int64_t>(begin), static_cast<int64_t>(end),
                            args.y.as<float>() + begin);
           });
}

template PlannedCall Plan(const RandomArgs&, int);
}  // namespace lora::cpu
