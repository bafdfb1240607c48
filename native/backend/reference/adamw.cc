#include "backend/reference/adamw_element.h"
#include "backend/reference/kernels.h"
#include "backend/reference/stored_parameter.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const AdamWArgs& args, Scratch, Context&) {
  for (const AdamWSegment& segment : args.segments) {
    for (int64_t i = 0; i < segment.param.numel(); ++i) {
      double p = Load(segment.param, i), m = Load(segment.m, i), v = Load(segment.v, i);
      AdamWElement(args, Load(segment.grad, i), p, m, v);
      Store(segment.m, i, m);
      Store(segment.v, i, v);
      StoreParameter(segment, i, p);
    }
  }
}

template PlannedCall Plan(const AdamWArgs&, int);
}  // namespace lora::reference
