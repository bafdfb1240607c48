#include "backend/cuda/device/rope.cuh"
#include "backend/cuda/ids.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/rope.h"

namespace lora::cuda {
namespace {

template <class T>
typename device::RopeParams<T>::Part PartOf(const TensorView& x, const TensorView& y, bool rotates,
                                            bool is_paged) {
  return {Data<const T>(x), Data<T>(y), x ? x.dim(2) : 0, rotates, is_paged};
}

}  // namespace

void LaunchRope(const char* op, const RopeCall& call, Context& context) {
  const TensorView& q = call.q;
  const bool is_paged = call.page_table.defined;
  ForFloat(q.dtype, [&]<class T>() {
    using Params = device::RopeParams<T>;
    Params params{};
    params.q = PartOf<T>(q, call.rotated_q, true, false);
    params.k = PartOf<T>(call.k, call.rotated_k, true, is_paged);
    params.v = PartOf<T>(call.v, call.v_pool, false, is_paged);
    params.cos = Data<const float>(call.cos);
    params.sin = Data<const float>(call.sin);
    params.positions = Data<const int32_t>(call.positions);
    params.table = Data<const int32_t>(call.page_table);
    params.lengths = Data<const int32_t>(call.lengths);
    params.starts = Data<const int32_t>(call.table_start);
    params.tokens = q.dim(0) * q.dim(1);
    params.sequence = q.dim(1);
    params.dim = q.dim(3);
    params.pairs = call.cos.dim(1);
    params.offset = call.offset;
    params.max_pages = is_paged ? call.page_table.dim(1) : 0;
    params.sign = call.inverse ? -1.0f : 1.0f;
    Launch<device::Rope<T>>(
        op, context, Blocks(params.tokens * params.groups() * params.chunks(), Params::kThreads),
        params);
  });
}

size_t ScratchBytes(const RopeArgs& args, int) { return args.positions ? kIdCheckBytes : 0; }

void Run(const RopeArgs& args, Scratch scratch, Context& context) {
  if (args.positions) {
    const int64_t table = args.cos.dim(0);
    const IdCheck check = CheckIds("rope", args.positions, table, kIgnoreNone, scratch.data(),
                                   static_cast<CudaContext&>(context));
    if (check.first_bad >= 0) {
      Throw("ERR_DATA", "rope", "expected positions from 0 to ", table - 1, " but received ",
            check.bad);
    }
  }
  RopeCall call;
  call.q = args.q;
  call.rotated_q = args.rotated_q;
  call.k = args.k;
  call.rotated_k = args.rotated_k;
  call.cos = args.cos;
  call.sin = args.sin;
  call.positions = args.positions;
  call.offset = args.offset;
  call.inverse = args.inverse;
  LaunchRope("rope", call, context);
}

template PlannedCall Plan(const RopeArgs&, int);
}  // namespace lora::cuda
