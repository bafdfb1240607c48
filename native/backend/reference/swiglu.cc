// With σ the logistic function and silu(x) = x·σ(x):
//   y     = silu(gate)·up
//   dgate = g·up·σ(gate)·(1 + gate·(1 − σ(gate)))
//   dup   = g·silu(gate)
#include "backend/reference/kernels.h"
#include "backend/reference/kinds.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const SwigluForwardArgs& args, Scratch, Context&) {
  for (int64_t i = 0; i < args.y.numel(); ++i) {
    const double gate = Load(args.gate, i);
    Store(args.y, i, gate * Sigmoid(gate).s * Load(args.up, i));
  }
}

void Run(const SwigluBackwardArgs& args, Scratch, Context&) {
  for (int64_t i = 0; i < args.g.numel(); ++i) {
    const double gate = Load(args.gate, i), up = Load(args.up, i), g = Load(args.g, i);
    const double sigma = Sigmoid(gate).s;
    Store(args.dgate, i, g * up * sigma * (1 + gate * (1 - sigma)));
    Store(args.dup, i, g * gate * sigma);
    if (args.y) Store(args.y, i, gate * sigma * up);
  }
}

template PlannedCall Plan(const SwigluForwardArgs&, int);
template PlannedCall Plan(const SwigluBackwardArgs&, int);
}  // namespace lora::reference
