#include "backend/cuda/any_elements.h"
#include "backend/cuda/device/short_conv.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/scratch.h"
#include "backend/cuda/states.h"

namespace lora::cuda {
namespace {

template <class Args>
device::ConvInput ConvInputOf(const char* op, const Args& args) {
  return {Input(op, args.x),
          Input(op, args.weight),
          args.bias ? Input(op, args.bias) : device::AnyInput{nullptr, DType::kF32},
          args.x.dim(0) * args.x.dim(1),
          args.x.dim(1),
          args.weight.dim(0),
          static_cast<int>(args.weight.dim(1)),
          args.kind};
}

int64_t GroupsOf(int64_t channels) { return CeilDiv(channels, device::ConvInput::kPerThread); }

struct ConvScratch {
  float *dz, *sums;
  int64_t blocks;
  size_t bytes;
};
ConvScratch ScratchOf(const ShortConvBackwardArgs& args, Scratch memory) {
  ScratchArena arena(memory);
  ConvScratch scratch{};
  const int64_t rows = args.x.dim(0) * args.x.dim(1), c = args.weight.dim(0);
  scratch.dz = arena.Take<float>(rows * c);
  scratch.blocks = CeilDiv(rows, device::ShortConvWeightParams::kRows);
  if (args.dweight || args.dbias)
    scratch.sums = arena.Take<float>(scratch.blocks * (args.weight.dim(1) + 1) * c);
  scratch.bytes = arena.used();
  return scratch;
}

}  // namespace

void Run(const ShortConvForwardArgs& args, Scratch, Context& context) {
  const device::ShortConvParams params{ConvInputOf("short_conv", args),
                                       Output("short_conv", args.y),
                                       Data<const int32_t>(args.key_begin),
                                       nullptr,
                                       nullptr,
                                       nullptr};
  Launch<device::ShortConv>(
      "short_conv", context,
      Blocks(params.in.rows * GroupsOf(params.in.c), device::ShortConvParams::kThreads), params);
}

size_t ScratchBytes(const ShortConvBackwardArgs& args, int) { return ScratchOf(args, {}).bytes; }

void Run(const ShortConvBackwardArgs& args, Scratch memory, Context& context) {
  const ConvScratch scratch = ScratchOf(args, memory);
  const device::ShortConvGradientParams params{
      ConvInputOf("short_conv", args), Input("short_conv", args.g),
      Data<const int32_t>(args.key_begin),
      args.dx ? Output("short_conv", args.dx) : device::AnyOutput{nullptr, DType::kF32},
      scratch.dz};
  const device::LaunchShape shape =
      Blocks(params.in.rows * GroupsOf(params.in.c), device::ShortConvGradientParams::kThreads);
  Launch<device::ShortConvGradient>("short_conv", context, shape, params);
  if (args.dx) Launch<device::ShortConvInputGradient>("short_conv", context, shape, params);
  if (!args.dweight && !args.dbias) return;
  const device::ShortConvWeightParams weight{params.in,
                                             params.key_begin,
                                             scratch.dz,
                                             scratch.blocks,
                                             scratch.sums,
                                             Data<float>(args.dweight),
                                             Data<float>(args.dbias)};
  constexpr int kThreads = device::ShortConvWeightParams::kThreads;
  Launch<device::ShortConvWeightSums>("short_conv", context,
                                      Blocks(scratch.blocks * params.in.c, kThreads), weight);
  Launch<device::ShortConvWeightGradient>(
      "short_conv", context, Blocks((params.in.taps + 1) * params.in.c, kThreads), weight);
}

void Run(const ShortConvAppendArgs& args, Scratch, Context& context) {
  constexpr const char* kOp = "short_conv_append";
  RequireSlots(kOp, args.slots, args.lengths, args.pool.dim(0), args.x.dim(1),
               static_cast<CudaContext&>(context));
  if (args.x.numel() == 0) return;
  const device::ShortConvParams params{ConvInputOf(kOp, args),
                                       Output(kOp, args.y),
                                       nullptr,
                                       Data<const float>(args.pool),
                                       Data<const int32_t>(args.slots),
                                       Data<const int32_t>(args.lengths)};
  const int64_t groups = GroupsOf(params.in.c);
  Launch<device::ShortConv>(
      kOp, context, Blocks(params.in.rows * groups, device::ShortConvParams::kThreads), params);
  if (params.in.taps == 1) return;
  const device::KeepStatesParams keep{params.in, Data<float>(args.pool), params.slots,
                                      params.lengths, args.x.dim(0)};
  Launch<device::KeepStates>(
      kOp, context, Blocks(args.x.dim(0) * groups, device::KeepStatesParams::kThreads), keep);
}

template PlannedCall Plan(const ShortConvForwardArgs&, int);
template PlannedCall Plan(const ShortConvBackwardArgs&, int);
template PlannedCall Plan(const ShortConvAppendArgs&, int);
}  // namespace lora::cuda
