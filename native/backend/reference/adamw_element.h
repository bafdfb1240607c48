// p ← p·(1 − lr·decay)
// m ← β1·m + (1−β1)·g
// v ← β2·v + (1−β2)·g²
// p ← p − lr/(1−β1^step)·m / (√(v/(1−β2^step)) + eps)
#pragma once

#include <cmath>

namespace lora::reference {

template <class Args>
void AdamWElement(const Args& args, double g, double& p, double& m, double& v) {
  const double step = static_cast<double>(args.step);
  const double correction1 = 1 - std::pow(args.beta1, step);
  const double correction2 = 1 - std::pow(args.beta2, step);
  p *= 1 - args.lr * args.weight_decay;
  m = args.beta1 * m + (1 - args.beta1) * g;
  v = args.beta2 * v + (1 - args.beta2) * g * g;
  p -= args.lr / correction1 * m / (std::sqrt(v / correction2) + args.eps);
}

}  // namespace lora::reference
