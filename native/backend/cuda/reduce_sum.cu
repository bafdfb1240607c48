#include "backend/cuda/any_elements.h"
#include "backend/cuda/context.h"
#include "backend/cuda/device/reduce_sum.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/reduce_sum_plan.h"

namespace lora::cuda {

void Run(const FillArgs&, Scratch, Context&);  // fill.cu

size_t ScratchBytes(const ReduceSumArgs& args, int threads) {
  if (args.x.numel() == 0) return 0;
  return PartialBytes(PlanReduceSum(args.x.shape, args.y.shape, threads));
}

void Run(const ReduceSumArgs& args, Scratch scratch, Context& context) {
  if (args.y.numel() == 0) return;
  if (args.x.numel() == 0) return Run(FillArgs{0, args.y}, {}, context);
  const ReduceSumPlan plan = PlanReduceSum(args.x.shape, args.y.shape, context.threads());
  device::SumParams params{Input("sum", args.x), Output("sum", args.y), nullptr, plan};
  if (plan.splits > 1) params.partial = reinterpret_cast<device::Compensated*>(scratch.data());
  const device::LaunchShape shape = Blocks(plan.blocks, 1);
  if (plan.columns) {
    Launch<device::SumColumns>("sum", context, shape, device::SumColumnsParams{params});
  } else if (plan.warps) {
    Launch<device::SumRows<32>>("sum", context, shape, device::SumRowsParams{params});
  } else {
    Launch<device::SumRows<device::kSumThreads>>("sum", context, shape,
                                                 device::SumRowsParams{params});
  }
  if (plan.splits > 16) {
    Launch<device::FinishSums<32>>("sum", context, Blocks(plan.outputs, device::kSumThreads / 32),
                                   params);
  } else if (plan.splits > 1) {
    Launch<device::FinishSums<1>>("sum", context, Blocks(plan.outputs, device::kSumThreads),
                                  params);
  }
}

template PlannedCall Plan(const ReduceSumArgs&, int);
}  // namespace lora::cuda
