// g ← g + decay·p
// v ← μ·v + g, or v ← g where there is no velocity
// p ← p − lr·v, or p ← p − lr·(g + μ·v) with nesterov
#include "backend/reference/kernels.h"
#include "backend/reference/stored_parameter.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const SgdArgs& args, Scratch, Context&) {
  for (const SgdArgs::Segment& segment : args.segments) {
    for (int64_t i = 0; i < segment.param.numel(); ++i) {
      const double p = Load(segment.param, i);
      const double g = Load(segment.grad, i) + args.weight_decay * p;
      double v = g;
      if (segment.velocity) {
        v = args.momentum * Load(segment.velocity, i) + g;
        Store(segment.velocity, i, v);
      }
      StoreParameter(segment, i, p - args.lr * (args.nesterov ? g + args.momentum * v : v));
    }
  }
}

template PlannedCall Plan(const SgdArgs&, int);
}  // namespace lora::reference
