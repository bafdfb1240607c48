#include "backend/cuda/any_elements.h"
#include "backend/cuda/device/binary.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/nest.h"

namespace lora::cuda {

void Run(const BinaryArgs& args, Scratch, Context& context) {
  const int64_t count = args.y.numel();
  if (count == 0) return;
  const Shape& shape = args.y.shape;
  const auto a = BroadcastStrides(args.a.shape, shape.rank());
  const auto b = BroadcastStrides(args.b.shape, shape.rank());
  device::BinaryParams params{};
  for (int d = 0; d < shape.rank(); ++d) {
    const size_t at = static_cast<size_t>(d);
    AppendDimension<2>(params.outer, shape[d], {a[at], b[at]});
  }
  const Inner inner = TakeInner(params.outer);
  params.a = Input("binary", args.a);
  params.b = Input("binary", args.b);
  params.y = Output("binary", args.y);
  params.inner = inner.dim;
  params.rows = count / inner.dim;
  params.a_repeats = inner.strides[0] == 0;
  params.b_repeats = inner.strides[1] == 0;
  const auto launch = [&]<BinaryKind kKind>() {
    Launch<device::Binary<kKind>>("binary", context,
                                  Blocks(params.rows * params.chunks(), params.kThreads), params);
  };
  switch (args.kind) {
    case BinaryKind::kAdd:
      return launch.operator()<BinaryKind::kAdd>();
    case BinaryKind::kSub:
      return launch.operator()<BinaryKind::kSub>();
    case BinaryKind::kMul:
      return launch.operator()<BinaryKind::kMul>();
    case BinaryKind::kDiv:
      return launch.operator()<BinaryKind::kDiv>();
  }
}

template PlannedCall Plan(const BinaryArgs&, int);
}  // namespace lora::cuda
