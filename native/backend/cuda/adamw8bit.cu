#include "backend/cuda/device/adamw8bit.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/step.h"

namespace lora::cuda {

namespace {

template <bool kRounded>
void RunAdamW8bit(const AdamW8bitArgs& args, Context& context) {
  using Params = device::AdamW8bitParams<kRounded>;
  using List = decltype(Params::list);
  const device::AdamWRule rule{FactorsOf(args)};
  ForStepLists<List, Params::kPerBlock, kRounded>(args, [&](const List& list, int64_t blocks) {
    Launch<device::AdamW8bit<kRounded>>("adamw8bit", context, Blocks(blocks, 1),
                                        Params{list, kSignedTree, kUnsignedTree, rule});
  });
}

}  // namespace

void Run(const AdamW8bitArgs& args, Scratch, Context& context) {
  RunAdamW8bit<false>(args, context);
  RunAdamW8bit<true>(args, context);
}

template PlannedCall Plan(const AdamW8bitArgs&, int);
}  // namespace lora::cuda
