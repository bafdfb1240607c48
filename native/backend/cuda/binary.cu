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
  params.kind = args.kind;
  params.inner = inner.dim;
  params.rows = count / inner.dim;
  params.a_repeats = inner.strides[0] == 0;
  params.b_repeats = inner.strides[1] == 0;
  if (args.kind == BinaryKind::kPow) {
    Launch<device::PowerOfElements>("binary", context, Blocks(count, params.kThreads), params);
    return;
  }
  Launch<device::Binary>("binary", context, Blocks(params.rows * params.chunks(), params.kThreads),
                         params);
}

template PlannedCall Plan(const BinaryArgs&, int);
}  // namespace lora::cuda
