// Declares every op of the CUDA backend. Scratch depends only on the problem and the number of
// multiprocessors (`threads`).
#pragma once

#include "core/ops/backend.h"

namespace lora::cuda {

// W stays row-major, with its scales behind it, and one copy serves both directions, because the
// GEMMs read either one.
size_t PackedBytes(int64_t rows, int64_t cols, WeightFormat format);

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
size_t ScratchBytes(const EmbeddingArgs&, int threads);
void Run(const EmbeddingArgs&, Scratch, Context&);
size_t ScratchBytes(const EmbeddingBackwardArgs&, int threads);
void Run(const EmbeddingBackwardArgs&, Scratch, Context&);
void Run(const RmsNormForwardArgs&, Scratch, Context&);
void Run(const RmsNormBackwardArgs&, Scratch, Context&);
size_t ScratchBytes(const RopeArgs&, int threads);
void Run(const RopeArgs&, Scratch, Context&);
size_t ScratchBytes(const AttentionForwardArgs&, int threads);
void Run(const AttentionForwardArgs&, Scratch, Context&);
size_t ScratchBytes(const AttentionBackwardArgs&, int threads);
void Run(const AttentionBackwardArgs&, Scratch, Context&);
size_t ScratchBytes(const PageAppendArgs&, int threads);
void Run(const PageAppendArgs&, Scratch, Context&);
size_t ScratchBytes(const AttentionPagedArgs&, int threads);
void Run(const AttentionPagedArgs&, Scratch, Context&);
void Run(const SwigluForwardArgs&, Scratch, Context&);
void Run(const SwigluBackwardArgs&, Scratch, Context&);
size_t ScratchBytes(const CrossEntropyForwardArgs&, int threads);
void Run(const CrossEntropyForwardArgs&, Scratch, Context&);
size_t ScratchBytes(const CrossEntropyBackwardArgs&, int threads);
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
size_t ScratchBytes(const ReduceSumArgs&, int threads);
void Run(const ReduceSumArgs&, Scratch, Context&);
void Run(const AccumulateArgs&, Scratch, Context&);
void Run(const FillArgs&, Scratch, Context&);
void Run(const TransposeArgs&, Scratch, Context&);
PlannedCall PlanCall(const MatmulArgs&, int threads);
void Run(const RandomArgs&, Scratch, Context&);
size_t ScratchBytes(const SampleArgs&, int threads);
void Run(const SampleArgs&, Scratch, Context&);
size_t ScratchBytes(const AdjustLogitsArgs&, int threads);
void Run(const AdjustLogitsArgs&, Scratch, Context&);
void Run(const MaskLogitsArgs&, Scratch, Context&);
void Run(const LogProbsArgs&, Scratch, Context&);

// Where no overload above says otherwise, a call is planned by its scratch alone.
template <class Args>
PlannedCall PlanCall(const Args& args, int threads) {
  return CallOf<Args>(args, ScratchBytes(args, threads), Run);
}

}  // namespace lora::cuda
