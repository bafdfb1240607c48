// Declares every op of the reference backend. Each has a file of its own. These files and those in
// core/ops give the formulas and shapes.
#pragma once

#include "core/ops/backend.h"

namespace lora::reference {

// Where no overload below says otherwise, an op needs no scratch.
template <class Args>
size_t ScratchBytes(const Args&, int /*threads*/) {
  return 0;
}

void Run(const PackArgs&, Scratch, Context&);
void Run(const QuantizeArgs&, Scratch, Context&);
void Run(const UnpackArgs&, Scratch, Context&);
void Run(const LoraLinearForwardArgs&, Scratch, Context&);
void Run(const LoraLinearBackwardArgs&, Scratch, Context&);
void Run(const DropoutArgs&, Scratch, Context&);
void Run(const EmbeddingArgs&, Scratch, Context&);
void Run(const EmbeddingBackwardArgs&, Scratch, Context&);
void Run(const RmsNormForwardArgs&, Scratch, Context&);
void Run(const RmsNormBackwardArgs&, Scratch, Context&);
void Run(const RopeArgs&, Scratch, Context&);
void Run(const AttentionForwardArgs&, Scratch, Context&);
void Run(const AttentionBackwardArgs&, Scratch, Context&);
void Run(const PageAppendArgs&, Scratch, Context&);
void Run(const AttentionPagedArgs&, Scratch, Context&);
void Run(const SwigluForwardArgs&, Scratch, Context&);
void Run(const SwigluBackwardArgs&, Scratch, Context&);
void Run(const CrossEntropyForwardArgs&, Scratch, Context&);
void Run(const CrossEntropyBackwardArgs&, Scratch, Context&);
void Run(const LinearCrossEntropyArgs&, Scratch, Context&);
void Run(const AdamWArgs&, Scratch, Context&);
void Run(const AdamW8bitArgs&, Scratch, Context&);
void Run(const SgdArgs&, Scratch, Context&);
void Run(const LionArgs&, Scratch, Context&);
void Run(const GlobalNormArgs&, Scratch, Context&);
void Run(const ClipByNormArgs&, Scratch, Context&);
void Run(const BinaryArgs&, Scratch, Context&);
void Run(const UnaryArgs&, Scratch, Context&);
void Run(const UnaryBackwardArgs&, Scratch, Context&);
void Run(const ReduceSumArgs&, Scratch, Context&);
void Run(const AccumulateArgs&, Scratch, Context&);
void Run(const FillArgs&, Scratch, Context&);
void Run(const TransposeArgs&, Scratch, Context&);
void Run(const MatmulArgs&, Scratch, Context&);
void Run(const RandomArgs&, Scratch, Context&);
size_t ScratchBytes(const SampleArgs&, int threads);
void Run(const SampleArgs&, Scratch, Context&);
void Run(const AdjustLogitsArgs&, Scratch, Context&);
void Run(const MaskLogitsArgs&, Scratch, Context&);
void Run(const LogProbsArgs&, Scratch, Context&);

template <class Args>
PlannedCall PlanCall(const Args& args, int threads) {
  return CallOf<Args>(args, ScratchBytes(args, threads), Run);
}

}  // namespace lora::reference
