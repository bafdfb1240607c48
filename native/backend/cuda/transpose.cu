#include "backend/cuda/device/transpose.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/nest.h"

namespace lora::cuda {
namespace {

// Returns the loops over y, outermost first, with the strides of an element in y and in x.
device::Nest<2> Loops(const TransposeArgs& args) {
  const auto y_strides = BroadcastStrides(args.y.shape, args.y.shape.rank());
  const auto x_strides = BroadcastStrides(args.x.shape, args.x.shape.rank());
  device::Nest<2> nest;
  for (int d = 0; d < args.y.shape.rank(); ++d) {
    const size_t at = static_cast<size_t>(d);
    AppendDimension<2>(nest, args.y.dim(d),
                       {y_strides[at], x_strides[static_cast<size_t>(args.perm[at])]});
  }
  return nest;
}

template <class U>
void Runs(const TransposeArgs& args, const device::Nest<2>& outer, int64_t run, Context& context) {
  using Params = device::TransposeRunsParams<U>;
  const Params params{Data<const U>(args.x), Data<U>(args.y), args.y.numel() / run, run, outer};
  Launch<device::TransposeRuns<U>>("transpose", context,
                                   Blocks(params.runs * params.chunks(), Params::kThreads), params);
}

template <class U>
void Tiles(const TransposeArgs& args, device::Nest<2> outer, const Inner& inner, Context& context) {
  using Params = device::TransposeTilesParams<U>;
  // The dimension along which x is contiguous is taken out of the outer loops.
  int along_x = 0;
  while (outer.strides[1][along_x] != 1) ++along_x;
  Params params{};
  params.x = Data<const U>(args.x);
  params.y = Data<U>(args.y);
  params.size_i = outer.dims[along_x];
  params.y_pitch = outer.strides[0][along_x];
  params.size_j = inner.dim;
  params.x_pitch = inner.strides[1];
  RemoveDimension(outer, along_x);
  params.outer = outer;
  params.tiles_i = (params.size_i + Params::kTile - 1) / Params::kTile;
  params.tiles_j = (params.size_j + Params::kTile - 1) / Params::kTile;
  const int64_t batches = args.y.numel() / (params.size_i * params.size_j);
  Launch<device::TransposeTiles<U>>("transpose", context,
                                    Blocks(params.tiles_i * params.tiles_j * batches, 1), params);
}

template <class U>
void Move(const TransposeArgs& args, Context& context) {
  device::Nest<2> outer = Loops(args);
  const Inner inner = TakeInner(outer);
  if (inner.strides[1] == 1 || inner.dim == 1) {
    Runs<U>(args, outer, inner.dim, context);
  } else {
    Tiles<U>(args, outer, inner, context);
  }
}

}  // namespace

void Run(const TransposeArgs& args, Scratch, Context& context) {
  if (args.y.numel() == 0) return;
  switch (SizeOf(args.y.dtype)) {
    case 2:
      return Move<uint16_t>(args, context);
    case 4:
      return Move<uint32_t>(args, context);
    default:
      Throw("ERR_UNSUPPORTED", "transpose", "no kernel for dtype ", NameOf(args.y.dtype));
  }
}

template PlannedCall Plan(const TransposeArgs&, int);
}  // namespace lora::cuda
