// Launches the kernels of an optimizer's step. Only .cu files include this.
#pragma once

#include "backend/cuda/device/step.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/segments.h"
#include "core/ops/optimizer.h"

namespace lora::cuda {

// Calls launch(list, blocks) as ForSegmentLists does, for the segments whose parameter is bf16, or
// is not. The data of a segment are its tensors, in the order of their description, without those
// that are absent.
template <class List, int kPerBlock, bool kRounded, class Args, class LaunchFn>
void ForStepLists(const Args& args, const LaunchFn& launch) {
  ForSegmentLists<List, kPerBlock>(
      args.segments.size(),
      [&](size_t i) {
        const auto& segment = args.segments[i];
        typename List::Segment listed{};
        if ((segment.param.dtype == DType::kBF16) != kRounded) return listed;  // empty: left out
        int t = 0;
        ForEachOperand(segment, [&](const TensorView& view, Access) {
          if (view) listed.data[t++] = Data<float>(view);
        });
        listed.count = segment.param.numel();
        if constexpr (kRounded) {
          listed.seed = segment.rounding.seed;
          listed.parameter = segment.rounding.parameter;
          listed.step = segment.rounding.step;
        }
        return listed;
      },
      launch);
}

template <bool kRounded, class Rule, class Args>
void RunStepOf(const Args& args, const Rule& rule, Context& context) {
  using Params = device::StepParams<Rule, kRounded>;
  using List = decltype(Params::list);
  ForStepLists<List, Params::kPerBlock, kRounded>(args, [&](const List& list, int64_t blocks) {
    Launch<device::Step<Rule, kRounded>>(kDescription<Args>.name, context, Blocks(blocks, 1),
                                         Params{list, rule});
  });
}

template <class Rule, class Args>
void RunStep(const Args& args, const Rule& rule, Context& context) {
  RunStepOf<false>(args, rule, context);
  RunStepOf<true>(args, rule, context);
}

}  // namespace lora::cuda
