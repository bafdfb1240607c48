// y = a·b over the last two dimensions; leading dimensions broadcast.
#include "backend/cuda/context.h"
#include "backend/cuda/gemm.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/matmul_plan.h"

namespace lora::cuda {
namespace {

const void* Advanced(const void* data, int64_t elements, DType dtype) {
  return static_cast<const std::byte*>(data) + elements * static_cast<int64_t>(SizeOf(dtype));
}

}  // namespace

size_t ScratchBytes(const MatmulArgs& args, int threads) {
  return args.y.numel() == 0 ? 0 : GemmScratchBytes(PlanMatmul(args).gemm, threads);
}

void Run(const MatmulArgs& args, Scratch scratch, Context& context) {
  if (args.y.numel() == 0) return;
  const MatmulPlan plan = PlanMatmul(args);
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
    Gemm("matmul", gemm, scratch, context);
  }
}

}  // namespace lora::cuda
