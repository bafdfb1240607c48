#include "backend/cuda/device/take.cuh"
#include "backend/cuda/ids.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {
namespace {

void CheckPlaces(const TensorView& index, int64_t length, Scratch scratch, Context& context) {
  auto& cuda = static_cast<CudaContext&>(context);
  const IdCheck check = CheckIds("take", index, length, kIgnoreNone, scratch.data(), cuda);
  if (check.first_bad >= 0) {
    Throw("ERR_DATA", "take", "expected an index from 0 to ", length - 1, " but received ",
          check.bad, " at position ", check.first_bad);
  }
}

template <class U>
void LaunchTake(const TakeArgs& args, const TakenLines& lines, Context& context) {
  using Params = device::TakeParams<U>;
  const Params params{Data<const U>(args.x), Data<const int32_t>(args.index),
                      Data<U>(args.y),       args.y.numel(),
                      lines.length,          lines.inner,
                      lines.taken,           lines.shared};
  Launch<device::Take<U>>("take", context, Blocks(params.count, Params::kThreads), params);
}

}  // namespace

size_t ScratchBytes(const TakeArgs&, int) { return kIdCheckBytes; }
size_t ScratchBytes(const TakeBackwardArgs&, int) { return kIdCheckBytes; }

void Run(const TakeArgs& args, Scratch scratch, Context& context) {
  const TakenLines lines = LinesOf(args.x.shape, args.index.shape, args.dim);
  CheckPlaces(args.index, lines.length, scratch, context);
  if (SizeOf(args.x.dtype) == 2) return LaunchTake<uint16_t>(args, lines, context);
  LaunchTake<uint32_t>(args, lines, context);
}

void Run(const TakeBackwardArgs& args, Scratch scratch, Context& context) {
  const TakenLines lines = LinesOf(args.dx.shape, args.index.shape, args.dim);
  CheckPlaces(args.index, lines.length, scratch, context);
  using Params = device::TakeBackwardParams;
  const Params params{Data<const float>(args.g),
                      Data<const int32_t>(args.index),
                      Data<float>(args.dx),
                      lines.outer * lines.inner,
                      lines.length,
                      lines.inner,
                      lines.taken,
                      lines.shared};
  Launch<device::TakeBackward>("take", context, Blocks(params.lines, Params::kThreads), params);
}

template PlannedCall Plan(const TakeArgs&, int);
template PlannedCall Plan(const TakeBackwardArgs&, int);
}  // namespace lora::cuda
