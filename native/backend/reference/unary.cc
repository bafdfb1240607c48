// y = f(x) and dx = g·f'(x), by the formulas of core/maths/kinds.h.
#include <cstring>

#include "backend/reference/kernels.h"
#include "backend/reference/kinds.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const UnaryArgs& args, Scratch, Context&) {
  if (args.kind == UnaryKind::kCopy && args.x.dtype == args.y.dtype) {  // NaN keeps its bits
    if (args.y.bytes() > 0) std::memmove(args.y.data, args.x.data, args.y.bytes());
    return;
  }
  unary::ForKind(args.kind, [&]<class Kind>() {
    for (int64_t i = 0; i < args.y.numel(); ++i)
      Store(args.y, i, Kind::Value(Load(args.x, i), args.alpha));
  });
}

void Run(const UnaryBackwardArgs& args, Scratch, Context&) {
  unary::ForKind(args.kind, [&]<class Kind>() {
    for (int64_t i = 0; i < args.dx.numel(); ++i)
      Store(args.dx, i, Kind::Gradient(Load(args.x, i), Load(args.g, i), args.alpha));
  });
}

template PlannedCall Plan(const UnaryArgs&, int);
template PlannedCall Plan(const UnaryBackwardArgs&, int);
}  // namespace lora::reference
