// y = a ∘ b with NumPy's broadcasting.
#include "backend/reference/broadcast.h"
#include "backend/reference/kernels.h"
#include "core/ops/element.h"

namespace lora::reference {
namespace {

double Apply(BinaryKind kind, double a, double b) {
  switch (kind) {
    case BinaryKind::kAdd:
      return a + b;
    case BinaryKind::kSub:
      return a - b;
    case BinaryKind::kMul:
      return a * b;
    case BinaryKind::kDiv:
      return a / b;
  }
  return 0;
}

}  // namespace

void Run(const BinaryArgs& args, Scratch, Context&) {
  const Shape& shape = args.y.shape;
  for (int64_t i = 0; i < args.y.numel(); ++i) {
    const double a = Load(args.a, BroadcastIndex(args.a.shape, shape, i));
    const double b = Load(args.b, BroadcastIndex(args.b.shape, shape, i));
    Store(args.y, i, Apply(args.kind, a, b));
  }
}

template PlannedCall Plan(const BinaryArgs&, int);
}  // namespace lora::reference
