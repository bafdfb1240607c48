// The rows of each expert are a call of lora_linear, or of matmul, which splits its work over the
// threads. Experts without rows are not read.
#include "backend/cpu/kernels.h"
#include "core/ops/expert_calls.h"

namespace lora::cpu {
namespace {

template <class Args>
PlannedCall PlanExperts(const Args& args, int threads) {
  const auto plan = [threads]<class Call>(const Call& call) {
    return CpuBackend().op<Call>().plan(call, threads);
  };
  return {ScratchOfExperts(args, plan), [args, plan](Scratch scratch, Context& context) {
            RunExperts(args, args.offsets.template as<const int32_t>(), args.offsets.dim(0) - 1,
                       plan, scratch, context);
          }};
}

}  // namespace

PlannedCall PlanCall(const RoutedLinearForwardArgs& args, int threads) {
  return PlanExperts(args, threads);
}
PlannedCall PlanCall(const RoutedLinearBackwardArgs& args, int threads) {
  return PlanExperts(args, threads);
}
PlannedCall PlanCall(const RoutedWeightsArgs& args, int threads) {
  return PlanExperts(args, threads);
}

template PlannedCall Plan(const RoutedLinearForwardArgs&, int);
template PlannedCall Plan(const RoutedLinearBackwardArgs&, int);
template PlannedCall Plan(const RoutedWeightsArgs&, int);
}  // namespace lora::cpu
