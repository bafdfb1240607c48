#include "backend/cuda/device/global_norm.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/segments.h"

namespace lora::cuda {
namespace {

using device::TensorList;

template <int kPerBlock, class LaunchFn>
void ForTensorLists(const std::vector<TensorView>& tensors, const LaunchFn& launch) {
  ForSegmentLists<TensorList, kPerBlock>(
      tensors.size(),
      [&](size_t i) { return TensorList::Segment{{Data<float>(tensors[i])}, tensors[i].numel()}; },
      launch);
}

}  // namespace

size_t ScratchBytes(const GlobalNormArgs& args, int) {
  size_t blocks = 0;
  for (const TensorView& tensor : args.tensors)
    blocks += static_cast<size_t>(BlocksOf(tensor.numel(), device::SumSquaresParams::kPerBlock));
  return blocks * sizeof(double);
}

void Run(const GlobalNormArgs& args, Scratch scratch, Context& context) {
  using Params = device::SumSquaresParams;
  double* const sums = reinterpret_cast<double*>(scratch.data());
  int64_t done = 0;
  ForTensorLists<Params::kPerBlock>(args.tensors, [&](const TensorList& list, int64_t blocks) {
    Launch<device::SumSquares>("global_norm", context, Blocks(blocks, 1),
                               Params{list, sums + done});
    done += blocks;
  });
  Launch<device::Norm>("global_norm", context, {},
                       device::NormParams{sums, done, Data<float>(args.norm)});
}

void Run(const ClipByNormArgs& args, Scratch, Context& context) {
  using Params = device::ClipParams;
  ForTensorLists<Params::kPerBlock>(args.tensors, [&](const TensorList& list, int64_t blocks) {
    Launch<device::Clip>("clip_by_norm", context, Blocks(blocks, 1),
                         Params{list, Data<float>(args.norm), args.max_norm});
  });
}

template PlannedCall Plan(const GlobalNormArgs&, int);
template PlannedCall Plan(const ClipByNormArgs&, int);
}  // namespace lora::cuda
