// Launches the kernels of an optimizer's step. Only .cu files include this.
#pragma once

#include "backend/cuda/device/step.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/segments.h"
#include "core/ops/optimizer.h"

namespace lora::cuda {

// Calls launch(list, blocks) as ForSegmentLists does. The data of a segment are its tensors, in the
// order of their description, without those that are absent.
template <class List, int kPerBlock, class Args, class LaunchFn>
void ForStepLists(const Args& args, const LaunchFn& launch) {
  ForSegmentLists<List, kPerBlock>(
      args.segments.size(),
      [&](size_t i) {
        const auto& segment = args.segments[i];
        typename List::Segment tensors{};
        int t = 0;
        ForEachOperand(segment, [&](const TensorView& view, Access) {
          if (view) tensors.data[t++] = Data<float>(view);
        });
        tensors.count = segment.param.numel();
        return tensors;
      },
      launch);
}

template <class Rule, class Args>
void RunStep(const Args& args, const Rule& rule, Context& context) {
  using Params = device::StepParams<Rule>;
  using List = decltype(Params::list);
  ForStepLists<List, Params::kPerBlock>(args, [&](const List& list, int64_t blocks) {
    Launch<device::Step<Rule>>(kDescription<Args>.name, context, Blocks(blocks, 1),
                               Params{list, rule});
  });
}

}  // namespace lora::cuda
