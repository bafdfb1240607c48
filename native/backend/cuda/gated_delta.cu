#include "backend/cuda/any_elements.h"
#include "backend/cuda/device/gated_delta.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/states.h"

namespace lora::cuda {
namespace {

static_assert(device::DeltaBackwardParams::kChunk == kDeltaChunk);

template <class Args>
device::DeltaInput DeltaInputOf(const char* op, const Args& args) {
  const DeltaOperands o(args);
  return {Input(op, o.q),
          Input(op, o.k),
          Input(op, o.v),
          Data<const float>(o.g),
          Data<const float>(o.beta),
          nullptr,
          o.tokens,
          o.k_heads,
          o.v_heads,
          o.dk,
          o.dv,
          o.scale,
          o.eps};
}

int64_t FloatsPerBlock(const DeltaOperands& o) {
  const int64_t states = CeilDiv(o.tokens, kDeltaChunk) + kDeltaChunk + 1;
  return states * o.dk * o.dv + 3 * o.dv + 2 * o.tokens * o.dk;
}

}  // namespace

size_t ScratchBytes(const GatedDeltaForwardArgs& args, int) {
  const DeltaOperands o(args);
  return static_cast<size_t>(o.batch * o.v_heads * o.dk * o.dv) * sizeof(float);
}

void Run(const GatedDeltaForwardArgs& args, Scratch scratch, Context& context) {
  device::DeltaParams params{DeltaInputOf("gated_delta", args), Output("gated_delta", args.y),
                             reinterpret_cast<float*>(scratch.data()), nullptr, nullptr};
  params.in.key_begin = Data<const int32_t>(args.key_begin);
  Launch<device::GatedDelta>("gated_delta", context, Blocks(args.q.dim(0) * args.v.dim(2), 1),
                             params);
}

size_t ScratchBytes(const GatedDeltaBackwardArgs& args, int) {
  const DeltaOperands o(args);
  return static_cast<size_t>(o.batch * o.k_heads * FloatsPerBlock(o)) * sizeof(float);
}

void Run(const GatedDeltaBackwardArgs& args, Scratch scratch, Context& context) {
  const DeltaOperands o(args);
  device::DeltaBackwardParams params{DeltaInputOf("gated_delta", args),
                                     Input("gated_delta", args.dy),
                                     Output("gated_delta", args.dq),
                                     Output("gated_delta", args.dk),
                                     Output("gated_delta", args.dv),
                                     Data<float>(args.dg),
                                     Data<float>(args.dbeta),
                                     reinterpret_cast<float*>(scratch.data()),
                                     FloatsPerBlock(o)};
  params.in.key_begin = Data<const int32_t>(args.key_begin);
  Launch<device::GatedDeltaBackward>("gated_delta", context, Blocks(o.batch * o.k_heads, 1),
                                     params);
}

void Run(const GatedDeltaAppendArgs& args, Scratch, Context& context) {
  constexpr const char* kOp = "gated_delta_append";
  RequireSlots(kOp, args.slots, args.lengths, args.pool.dim(0), args.q.dim(1),
               static_cast<CudaContext&>(context));
  if (args.q.dim(1) == 0) return;
  const device::DeltaParams params{DeltaInputOf(kOp, args), Output(kOp, args.y),
                                   Data<float>(args.pool), Data<const int32_t>(args.slots),
                                   Data<const int32_t>(args.lengths)};
  Launch<device::GatedDelta>(kOp, context, Blocks(args.q.dim(0) * args.v.dim(2), 1), params);
}

template PlannedCall Plan(const GatedDeltaForwardArgs&, int);
template PlannedCall Plan(const GatedDeltaBackwardArgs&, int);
template PlannedCall Plan(const GatedDeltaAppendArgs&, int);
}  // namespace lora::cuda
