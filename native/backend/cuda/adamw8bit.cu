#include "backend/cuda/device/adamw8bit.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/step.h"

namespace lora::cuda {

void Run(const AdamW8bitArgs& args, Scratch, Context& context) {
  using Params = device::AdamW8bitParams;
  using List = decltype(Params::list);
  const device::AdamWRule rule{FactorsOf(args)};
  ForStepLists<List, Params::kPerBlock>(args, [&](const List& list, int64_t blocks) {
    device::LaunchShape shape = Blocks(blocks, 1);
    shape.shared_bytes = Params::kSharedBytes;
    Launch<device::AdamW8bit>("adamw8bit", context, shape,
                              Params{list, kSignedTree, kUnsignedTree, rule});
  });
}

}  // namespace lora::cuda
