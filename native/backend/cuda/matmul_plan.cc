#include "backend/cuda/matmul_plan.h"

#include <algorithm>

#include "backend/cuda/nest.h"

namespace lora::cuda {
namespace {

Shape Leading(const Shape& shape) {
  Shape leading;
  for (int d = 0; d < shape.rank() - 2; ++d) leading.push_back(shape[d]);
  return leading;
}

}  // namespace

MatmulPlan PlanMatmul(const MatmulArgs& args) {
  const int64_t m = args.y.dim(-2), n = args.y.dim(-1), k = args.a.dim(args.trans_a ? -2 : -1);
  const Shape lead = Leading(args.y.shape);
  const auto a = BroadcastStrides(Leading(args.a.shape), lead.rank());
  const auto b = BroadcastStrides(Leading(args.b.shape), lead.rank());
  const auto y = BroadcastStrides(lead, lead.rank());
  MatmulPlan plan;
  for (int d = 0; d < lead.rank(); ++d) {
    const size_t at = static_cast<size_t>(d);
    AppendDimension<3>(plan.others, lead[d], {a[at] * m * k, b[at] * k * n, y[at] * m * n});
  }
  GemmProblem& gemm = plan.gemm;
  gemm.m = m;
  gemm.n = n;
  gemm.a_dtype = args.a.dtype;
  gemm.b_dtype = args.b.dtype;
  gemm.c_dtype = args.y.dtype;
  gemm.trans_a = args.trans_a;
  gemm.trans_b = args.trans_b;
  GemmSegment segment;
  segment.a = args.a.data;
  segment.b = args.b.data;
  segment.k = k;
  segment.a_pitch = args.trans_a ? m : k;
  segment.b_pitch = args.trans_b ? k : n;
  gemm.segments = {segment};
  gemm.c = args.y.data;
  gemm.c_pitch = n;
  device::Nest<3>& nest = plan.others;
  const int last = nest.rank - 1;
  if (nest.rank > 0 && !args.trans_a && nest.strides[0][last] == m * k &&
      nest.strides[1][last] == 0 && nest.strides[2][last] == m * n) {
    gemm.m *= nest.dims[last];
    RemoveDimension(nest, last);
  }
  if (nest.rank > 0) {
    const int longest =
        static_cast<int>(std::max_element(nest.dims, nest.dims + nest.rank) - nest.dims);
    gemm.batches = nest.dims[longest];
    gemm.a_batch = nest.strides[0][longest];
    gemm.b_batch = nest.strides[1][longest];
    gemm.c_batch = nest.strides[2][longest];
    RemoveDimension(nest, longest);
  }
  for (int d = 0; d < nest.rank; ++d) plan.launches *= nest.dims[d];
  return plan;
}

}  // namespace lora::cuda
