// Declares every op of the CUDA backend. An op without a scratch function needs no scratch. Scratch
// depends only on the problem and the number of multiprocessors (`threads`).
#pragma once

#include "core/backend.h"

namespace lora::cuda {

// W stays row-major, and one copy serves both directions, because the GEMMs read either one.
size_t PackedBytes(int64_t rows, int64_t cols, DType dtype, Direction direction);
void Pack(const PackArgs& args, Scratch scratch, Context& context);
void Unpack(const UnpackArgs& args, Scratch scratch, Context& context);

size_t LoraLinearForwardScratchBytes(const LoraLinearForwardArgs& args, int threads);
void LoraLinearForward(const LoraLinearForwardArgs& args, Scratch scratch, Context& context);
size_t LoraLinearBackwardScratchBytes(const LoraLinearBackwardArgs& args, int threads);
void LoraLinearBackward(const LoraLinearBackwardArgs& args, Scratch scratch, Context& context);
size_t EmbeddingScratchBytes(const EmbeddingArgs& args, int threads);
void Embedding(const EmbeddingArgs& args, Scratch scratch, Context& context);
void RmsNormForward(const RmsNormForwardArgs& args, Scratch scratch, Context& context);
size_t RmsNormBackwardScratchBytes(const RmsNormBackwardArgs& args, int threads);
void RmsNormBackward(const RmsNormBackwardArgs& args, Scratch scratch, Context& context);
size_t RopeScratchBytes(const RopeArgs& args, int threads);
void Rope(const RopeArgs& args, Scratch scratch, Context& context);
size_t AttentionForwardScratchBytes(const AttentionForwardArgs& args, int threads);
void AttentionForward(const AttentionForwardArgs& args, Scratch scratch, Context& context);
size_t AttentionBackwardScratchBytes(const AttentionBackwardArgs& args, int threads);
void AttentionBackward(const AttentionBackwardArgs& args, Scratch scratch, Context& context);
void CacheAppend(const CacheAppendArgs& args, Scratch scratch, Context& context);
void SwigluForward(const SwigluForwardArgs& args, Scratch scratch, Context& context);
void SwigluBackward(const SwigluBackwardArgs& args, Scratch scratch, Context& context);
size_t CrossEntropyForwardScratchBytes(const CrossEntropyForwardArgs& args, int threads);
void CrossEntropyForward(const CrossEntropyForwardArgs& args, Scratch scratch, Context& context);
size_t CrossEntropyBackwardScratchBytes(const CrossEntropyBackwardArgs& args, int threads);
void CrossEntropyBackward(const CrossEntropyBackwardArgs& args, Scratch scratch, Context& context);
size_t LinearCrossEntropyScratchBytes(const LinearCrossEntropyArgs& args, int threads);
void LinearCrossEntropy(const LinearCrossEntropyArgs& args, Scratch scratch, Context& context);
size_t AdamWScratchBytes(const AdamWArgs& args, int threads);
void AdamW(const AdamWArgs& args, Scratch scratch, Context& context);
size_t GlobalNormScratchBytes(const GlobalNormArgs& args, int threads);
void GlobalNorm(const GlobalNormArgs& args, Scratch scratch, Context& context);
size_t ClipByNormScratchBytes(const ClipByNormArgs& args, int threads);
void ClipByNorm(const ClipByNormArgs& args, Scratch scratch, Context& context);
void Binary(const BinaryArgs& args, Scratch scratch, Context& context);
void Unary(const UnaryArgs& args, Scratch scratch, Context& context);
void UnaryBackward(const UnaryBackwardArgs& args, Scratch scratch, Context& context);
size_t ReduceSumScratchBytes(const ReduceSumArgs& args, int threads);
void ReduceSum(const ReduceSumArgs& args, Scratch scratch, Context& context);
void Accumulate(const AccumulateArgs& args, Scratch scratch, Context& context);
void Fill(const FillArgs& args, Scratch scratch, Context& context);
void Transpose(const TransposeArgs& args, Scratch scratch, Context& context);
size_t MatmulScratchBytes(const MatmulArgs& args, int threads);
void Matmul(const MatmulArgs& args, Scratch scratch, Context& context);
void Random(const RandomArgs& args, Scratch scratch, Context& context);
size_t SampleScratchBytes(const SampleArgs& args, int threads);
void Sample(const SampleArgs& args, Scratch scratch, Context& context);

}  // namespace lora::cuda
