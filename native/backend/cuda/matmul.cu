// y = a·b over the last two dimensions; leading dimensions broadcast.
#include <utility>

#include "backend/cuda/context.h"
#include "backend/cuda/gemm_plan.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/matmul_plan.h"

namespace lora::cuda {
namespace {

const void* Advanced(const void* data, int64_t elements, DType dtype) {
  return static_cast<const std::byte*>(data) + elements * static_cast<int64_t>(SizeOf(dtype));
}

void RunPlanned(const MatmulArgs& args, const MatmulPlan& plan, const GemmPlan& gemm_plan,
                Scratch scratch, Context& context) {
  for (int64_t launch = 0; launch < plan.launches; ++launch) {
    int64_t at[3] = {0, 0, 0}, rest = launch;
    for (int d = plan.others.rank - 1; d >= 0; --d) {
      const int64_t index = rest % plan.others.dims[d];
      rest /= plan.others.dims[d];
      for (int o = 0; o < 3; ++o) at[o] += index * plan.others.strides[o][d];
    }
    GemmProblem gemm = plan.gemm;
    gemm.segments[0].a = Advanced(args.a.data, at[0], args.a.dtype);
    gemm.segments[0].b = Advanced(args.b.data, at[1], args.b.dtype);
    gemm.c = const_cast<void*>(Advanced(args.y.data, at[2], args.y.dtype));
    Gemm("matmul", gemm, gemm_plan, scratch, context);
  }
}

}  // namespace

PlannedCall PlanCall(const MatmulArgs& args, int threads) {
  if (args.y.numel() == 0) return {0, [](Scratch, Context&) {}};
  MatmulPlan plan = PlanMatmul(args);
  GemmPlan gemm = PlanGemm("matmul", plan.gemm, threads);
  return {gemm.scratch_bytes, [args = args, plan = std::move(plan), gemm = std::move(gemm)](
                                  Scratch scratch, Context& context) {
            RunPlanned(args, plan, gemm, scratch, context);
          }};
}

template PlannedCall Plan(const MatmulArgs&, int);
}  // namespace lora::cuda
