// y = a ∘ b with NumPy's broadcasting.
#include "backend/reference/broadcast.h"
#include "backend/reference/kernels.h"
#include "backend/reference/kinds.h"
#include "core/ops/element.h"

namespace lora::reference {
void Run(const BinaryArgs& args, Scratch, Context&) {
  const Shape& shape = args.y.shape;
  binary::ForKind(args.kind, [&]<class Kind>() {
    for (int64_t i = 0; i < args.y.numel(); ++i) {
      const double a = Load(args.a, BroadcastIndex(args.a.shape, shape, i));
      const double b = Load(args.b, BroadcastIndex(args.b.shape, shape, i));
      Store(args.y, i, Kind::Value(a, b));
    }
  });
}

template PlannedCall Plan(const BinaryArgs&, int);
}  // namespace lora::reference
