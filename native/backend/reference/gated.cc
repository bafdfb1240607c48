// With f and u, which is up itself in most kinds, of core/maths/kinds.h:
//   y     = f(gate)·u(up)
//   dgate = g·u(up)·f'(gate)
//   dup   = g·f(gate)·u'(up)
#include "backend/reference/kernels.h"
#include "backend/reference/kinds.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const GatedForwardArgs& args, Scratch, Context&) {
  gated::ForKind(args.kind, [&]<class Kind>() {
    for (int64_t i = 0; i < args.y.numel(); ++i) {
      const auto gate = Kind::At(Load(args.gate, i));
      Store(args.y, i, gate.z * gate.s * Kind::Up(Load(args.up, i)));
    }
  });
}

void Run(const GatedBackwardArgs& args, Scratch, Context&) {
  gated::ForKind(args.kind, [&]<class Kind>() {
    for (int64_t i = 0; i < args.g.numel(); ++i) {
      const auto gate = Kind::At(Load(args.gate, i));
      const double raw = Load(args.up, i), up = Kind::Up(raw), g = Load(args.g, i);
      Store(args.dgate, i, g * up * gate.s * gate.slope);
      Store(args.dup, i, Kind::UpGradient(raw, g * gate.z * gate.s));
      if (args.y) Store(args.y, i, gate.z * gate.s * up);
    }
  });
}

template PlannedCall Plan(const GatedForwardArgs&, int);
template PlannedCall Plan(const GatedBackwardArgs&, int);
}  // namespace lora::reference
