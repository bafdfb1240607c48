// Declares every op of the CPU backend. Each has a file of its own. The files in core/ops give the
// formulas and shapes.
#pragma once

#include "core/ops/backend.h"

namespace lora::cpu {

// Where no overload below says otherwise, an op needs no scratch.
template <class Args>
size_t ScratchBytes(const Args&, int /*threads*/) {
  return 0;
}

void Run(const PackArgs&, Scratch, Context&);
void Run(const QuantizeArgs&, Scratch, Context&);
void Run(const UnpackArgs&, Scratch, Context&);
PlannedCall PlanCall(const LoraLinearForwardArgs&, int threads);
PlannedCall PlanCall(const LoraLinearBackwardArgs&, int threads);
void Run(const DropoutArgs&, Scratch, Context&);
void Run(const EmbeddingArgs&, Scratch, Context&);
void Run(const EmbeddingBackwardArgs&, Scratch, Context&);
size_t ScratchBytes(const RmsNormForwardArgs&, int threads);
void Run(const RmsNormForwardArgs&, Scratch, Context&);
size_t ScratchBytes(const RmsNormBackwardArgs&, int threads);
void Run(const RmsNormBackwardArgs&, Scratch, Context&);
void Run(const RopeArgs&, Scratch, Context&);
PlannedCall PlanCall(const AttentionForwardArgs&, int threads);
size_t ScratchBytes(const AttentionBackwardArgs&, int threads);
void Run(const AttentionBackwardArgs&, Scratch, Context&);
void Run(const PageAppendArgs&, Scratch, Context&);
PlannedCall PlanCall(const AttentionPagedArgs&, int threads);
void Run(const SwigluForwardArgs&, Scratch, Context&);
void Run(const SwigluBackwardArgs&, Scratch, Context&);
size_t ScratchBytes(const CrossEntropyForwardArgs&, int threads);
void Run(const CrossEntropyForwardArgs&, Scratch, Context&);
void Run(const CrossEntropyBackwardArgs&, Scratch, Context&);
PlannedCall PlanCall(const LinearCrossEntropyArgs&, int threads);
void Run(const AdamWArgs&, Scratch, Context&);
void Run(const AdamW8bitArgs&, Scratch, Context&);
void Run(const SgdArgs&, Scratch, Context&);
void Run(const LionArgs&, Scratch, Context&);
size_t ScratchBytes(const GlobalNormArgs&, int threads);
void Run(const GlobalNormArgs&, Scratch, Context&);
void Run(const ClipByNormArgs&, Scratch, Context&);
void Run(const BinaryArgs&, Scratch, Context&);
void Run(const UnaryArgs&, Scratch, Context&);
void Run(const UnaryBackwardArgs&, Scratch, Context&);
PlannedCall PlanCall(const ReduceSumArgs&, int threads);
void Run(const AccumulateArgs&, Scratch, Context&);
void Run(const FillArgs&, Scratch, Context&);
void Run(const TransposeArgs&, Scratch, Context&);
PlannedCall PlanCall(const MatmulArgs&, int threads);
void Run(const RandomArgs&, Scratch, Context&);
size_t ScratchBytes(const SampleArgs&, int threads);
void Run(const SampleArgs&, Scratch, Context&);
void Run(const AdjustLogitsArgs&, Scratch, Context&);
void Run(const MaskLogitsArgs&, Scratch, Context&);
size_t ScratchBytes(const LogProbsArgs&, int threads);
void Run(const LogProbsArgs&, Scratch, Context&);

template <class Args>
PlannedCall PlanCall(const Args& args, int threads) {
  return CallOf<Args>(args, ScratchBytes(args, threads), Run);
}

}  // namespace lora::cpu
