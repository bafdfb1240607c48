// p ← p·(1 − lr·decay) − lr·sign(β1·m + (1−β1)·g)
// m ← β2·m + (1−β2)·g
#include "backend/reference/kernels.h"
#include "backend/reference/stored_parameter.h"
#include "core/ops/element.h"

namespace lora::reference {
namespace {

// 0 and NaN are their own signs.
double SignOf(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; }

}  // namespace

void Run(const LionArgs& args, Scratch, Context&) {
  for (const LionArgs::Segment& segment : args.segments) {
    for (int64_t i = 0; i < segment.param.numel(); ++i) {
      const double g = Load(segment.grad, i), m = Load(segment.m, i);
      const double decayed = Load(segment.param, i) * (1 - args.lr * args.weight_decay);
      const double direction = SignOf(args.beta1 * m + (1 - args.beta1) * g);
      StoreParameter(segment, i, decayed - args.lr * direction);
      Store(segment.m, i, args.beta2 * m + (1 - args.beta2) * g);
    }
  }
}

template PlannedCall Plan(const LionArgs&, int);
}  // namespace lora::reference
