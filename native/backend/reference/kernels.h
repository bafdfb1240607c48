// Declares the ops of the reference backend. Each has a file of its own; core/ops.h and those files
// give the formulas and shapes.
#pragma once

#include "core/backend.h"

namespace lora::reference {

void Pack(const PackArgs&, Scratch, Context&);
void Unpack(const UnpackArgs&, Scratch, Context&);
void LoraLinearForward(const LoraLinearForwardArgs&, Scratch, Context&);
void LoraLinearBackward(const LoraLinearBackwardArgs&, Scratch, Context&);
void Embedding(const EmbeddingArgs&, Scratch, Context&);
void RmsNormForward(const RmsNormForwardArgs&, Scratch, Context&);
void RmsNormBackward(const RmsNormBackwardArgs&, Scratch, Context&);
void Rope(const RopeArgs&, Scratch, Context&);
void AttentionForward(const AttentionForwardArgs&, Scratch, Context&);
void AttentionBackward(const AttentionBackwardArgs&, Scratch, Context&);
void CacheAppend(const CacheAppendArgs&, Scratch, Context&);
void SwigluForward(const SwigluForwardArgs&, Scratch, Context&);
void SwigluBackward(const SwigluBackwardArgs&, Scratch, Context&);
void CrossEntropyForward(const CrossEntropyForwardArgs&, Scratch, Context&);
void CrossEntropyBackward(const CrossEntropyBackwardArgs&, Scratch, Context&);
void LinearCrossEntropy(const LinearCrossEntropyArgs&, Scratch, Context&);
void AdamW(const AdamWArgs&, Scratch, Context&);
void GlobalNorm(const GlobalNormArgs&, Scratch, Context&);
void ClipByNorm(const ClipByNormArgs&, Scratch, Context&);
void Binary(const BinaryArgs&, Scratch, Context&);
void Unary(const UnaryArgs&, Scratch, Context&);
void UnaryBackward(const UnaryBackwardArgs&, Scratch, Context&);
void ReduceSum(const ReduceSumArgs&, Scratch, Context&);
void Accumulate(const AccumulateArgs&, Scratch, Context&);
void Fill(const FillArgs&, Scratch, Context&);
void Transpose(const TransposeArgs&, Scratch, Context&);
void Matmul(const MatmulArgs&, Scratch, Context&);
void Random(const RandomArgs&, Scratch, Context&);
size_t SampleScratchBytes(const SampleArgs&, int threads);
void Sample(const SampleArgs&, Scratch, Context&);

}  // namespace lora::reference
