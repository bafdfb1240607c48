#include "backend/cuda/any_elements.h"
#include "backend/cuda/copy.h"
#include "backend/cuda/device/unary.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {

void Run(const UnaryArgs& args, Scratch, Context& context) {
  const DType from = args.x.dtype, to = args.y.dtype;
  if (args.kind == UnaryKind::kCopy) {
    if (from == to) {  // a NaN keeps its bits
      if (args.x.data != args.y.data)
        CopyElements("copy", args.x.data, args.y.data, args.y.numel(), SizeOf(to), context);
      return;
    }
    if (from == DType::kI32 || to == DType::kI32) {
      RequireFloat("copy", from == DType::kI32 ? to : from);
      using Params = device::CastIntegerParams;
      const Params params{{args.x.data, from}, {args.y.data, to}, args.y.numel()};
      return Launch<device::CastInteger>("copy", context, Blocks(params.count, Params::kThreads),
                                         params);
    }
  }
  using Params = device::UnaryParams;
  const Params params{Input("unary", args.x), Output("unary", args.y), args.y.numel(), args.kind,
                      args.alpha};
  Launch<device::Unary>("unary", context,
                        Blocks(params.count, Params::kThreads * Params::kPerThread), params);
}

void Run(const UnaryBackwardArgs& args, Scratch, Context& context) {
  using Params = device::UnaryBackwardParams;
  const Params params{Input("unary", args.x),
                      Input("unary", args.g),
                      Output("unary", args.dx),
                      args.dx.numel(),
                      args.kind,
                      args.alpha};
  Launch<device::UnaryBackward>(
      "unary", context, Blocks(params.count, Params::kThreads * Params::kPerThread), params);
}

template PlannedCall Plan(const UnaryArgs&, int);
template PlannedCall Plan(const UnaryBackwardArgs&, int);
}  // namespace lora::cuda
