// The rows of each expert are a call of lora_linear, or of matmul. How many rows they have is known
// where a call of the layer before has read it back; else one read waits for the device.
#include <vector>

#include "backend/cuda/context.h"
#include "backend/cuda/kernels.h"
#include "core/ops/expert_calls.h"

namespace lora::cuda {
namespace {

std::vector<int32_t> OffsetsOnHost(const TensorView& offsets, int64_t rows, CudaContext& cuda) {
  const int64_t experts = offsets.dim(0) - 1;
  std::vector<int32_t> values(static_cast<size_t>(experts + 1));
  if (const TensorView known = offsets.on_host()) {
    const auto* const from = known.as<const int32_t>();
    values.assign(from, from + experts + 1);
    return values;
  }
  // What a list of launches is made for, which reads nothing.
  for (int64_t e = 0; e <= experts; ++e)
    values[static_cast<size_t>(e)] = static_cast<int32_t>(rows * e / experts);
  cuda.ReadNow(values.data(), offsets.data, offsets.bytes());
  if (offsets.host_copy) offsets.host_copy->Wrote(offsets.data, values.data(), offsets.bytes());
  return values;
}

template <class Args>
PlannedCall PlanExperts(const Args& args, int threads) {
  const auto plan = [threads]<class Call>(const Call& call) {
    return CudaBackend()->op<Call>().plan(call, threads);
  };
  return {ScratchOfExperts(args, plan), [args, plan](Scratch scratch, Context& context) {
            auto& cuda = static_cast<CudaContext&>(context);
            const std::vector<int32_t> offsets =
                OffsetsOnHost(args.offsets, RowsOfCall(args), cuda);
            RunExperts(args, offsets.data(), args.offsets.dim(0) - 1, plan, scratch, context);
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
}  // namespace lora::cuda
