// p ← p·(1 − lr·decay)
// m ← β1·m + (1−β1)·g
// v ← β2·v + (1−β2)·g²
// p ← p − lr/(1−β1^step)·m / (√(v/(1−β2^step)) + eps)
#include <cmath>

#include "backend/reference/kernels.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const AdamWArgs& args, Scratch, Context&) {
  const double step = static_cast<double>(args.step);
  const double correction1 = 1 - std::pow(args.beta1, step);
  const double correction2 = 1 - std::pow(args.beta2, step);
  for (const AdamWArgs::Segment& segment : args.segments) {
    for (int64_t i = 0; i < segment.param.numel(); ++i) {
      const double g = Load(segment.grad, i);
      const double m = args.beta1 * Load(segment.m, i) + (1 - args.beta1) * g;
      const double v = args.beta2 * Load(segment.v, i) + (1 - args.beta2) * g * g;
      const double decayed = Load(segment.param, i) * (1 - args.lr * args.weight_decay);
      const double change = args.lr / correction1 * m / (std::sqrt(v / correction2) + args.eps);
      Store(segment.m, i, m);
      Store(segment.v, i, v);
      Store(segment.param, i, decayed - change);
    }
  }
}

}  // namespace lora::reference
