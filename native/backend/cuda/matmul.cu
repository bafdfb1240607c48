// y = a·b over the last two dimensions. Of the leading ones, which broadcast, neighbours that are
// one run in a, b and y are joined; rows of matrices in a row that share b are one tall matrix; the
// longest dimension that is left is the batch of a launch. There is a launch for each place in the
// others: one, but where a and b repeat in turn.
#include <algorithm>
#include <utility>

#include "backend/cuda/context.h"
#include "backend/cuda/gemm.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/nest.h"

namespace lora::cuda {
namespace {

struct Plan {
  GemmProblem gemm;        // of the first launch
  device::Nest<3> others;  // of a, b and y
  int64_t launches = 1;
};

Shape Leading(const Shape& shape) {
  Shape leading;
  for (int d = 0; d < shape.rank() - 2; ++d) leading.push_back(shape[d]);
  return leading;
}

Plan MakePlan(const MatmulArgs& args) {
  const int64_t m = args.y.dim(-2), n = args.y.dim(-1), k = args.a.dim(args.trans_a ? -2 : -1);
  const Shape lead = Leading(args.y.shape);
  const auto a = BroadcastStrides(Leading(args.a.shape), lead.rank());
  const auto b = BroadcastStrides(Leading(args.b.shape), lead.rank());
  const auto y = BroadcastStrides(lead, lead.rank());
  Plan plan;
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

const void* Advanced(const void* data, int64_t elements, DType dtype) {
  return static_cast<const std::byte*>(data) + elements * static_cast<int64_t>(SizeOf(dtype));
}

}  // namespace

size_t MatmulScratchBytes(const MatmulArgs& args, int threads) {
  return args.y.numel() == 0 ? 0 : GemmScratchBytes(MakePlan(args).gemm, threads);
}

void Matmul(const MatmulArgs& args, Scratch scratch, Context& context) {
  if (args.y.numel() == 0) return;
  const Plan plan = MakePlan(args);
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
