// Ops that are not written yet. Weak: an op that is there takes their place.
#include "backend/cuda/kernels.h"
#include "core/error.h"

namespace lora::cuda {

__attribute__((weak)) size_t PackedBytes(int64_t, int64_t, DType, Direction) { return 0; }
__attribute__((weak)) void Pack(const PackArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "Pack is not written yet");
}
__attribute__((weak)) void Unpack(const UnpackArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "Unpack is not written yet");
}
__attribute__((weak)) size_t LoraLinearForwardScratchBytes(const LoraLinearForwardArgs&, int) {
  return 0;
}
__attribute__((weak)) void LoraLinearForward(const LoraLinearForwardArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "LoraLinearForward is not written yet");
}
__attribute__((weak)) size_t LoraLinearBackwardScratchBytes(const LoraLinearBackwardArgs&, int) {
  return 0;
}
__attribute__((weak)) void LoraLinearBackward(const LoraLinearBackwardArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "LoraLinearBackward is not written yet");
}
__attribute__((weak)) size_t EmbeddingScratchBytes(const EmbeddingArgs&, int) { return 0; }
__attribute__((weak)) void Embedding(const EmbeddingArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "Embedding is not written yet");
}
__attribute__((weak)) void RmsNormForward(const RmsNormForwardArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "RmsNormForward is not written yet");
}
__attribute__((weak)) size_t RmsNormBackwardScratchBytes(const RmsNormBackwardArgs&, int) {
  return 0;
}
__attribute__((weak)) void RmsNormBackward(const RmsNormBackwardArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "RmsNormBackward is not written yet");
}
__attribute__((weak)) void Rope(const RopeArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "Rope is not written yet");
}
__attribute__((weak)) size_t AttentionForwardScratchBytes(const AttentionForwardArgs&, int) {
  return 0;
}
__attribute__((weak)) void AttentionForward(const AttentionForwardArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "AttentionForward is not written yet");
}
__attribute__((weak)) size_t AttentionBackwardScratchBytes(const AttentionBackwardArgs&, int) {
  return 0;
}
__attribute__((weak)) void AttentionBackward(const AttentionBackwardArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "AttentionBackward is not written yet");
}
__attribute__((weak)) void CacheAppend(const CacheAppendArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "CacheAppend is not written yet");
}
__attribute__((weak)) void SwigluForward(const SwigluForwardArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "SwigluForward is not written yet");
}
__attribute__((weak)) void SwigluBackward(const SwigluBackwardArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "SwigluBackward is not written yet");
}
__attribute__((weak)) size_t CrossEntropyForwardScratchBytes(const CrossEntropyForwardArgs&, int) {
  return 0;
}
__attribute__((weak)) void CrossEntropyForward(const CrossEntropyForwardArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "CrossEntropyForward is not written yet");
}
__attribute__((weak)) size_t CrossEntropyBackwardScratchBytes(const CrossEntropyBackwardArgs&,
                                                              int) {
  return 0;
}
__attribute__((weak)) void CrossEntropyBackward(const CrossEntropyBackwardArgs&, Scratch,
                                                Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "CrossEntropyBackward is not written yet");
}
__attribute__((weak)) size_t LinearCrossEntropyScratchBytes(const LinearCrossEntropyArgs&, int) {
  return 0;
}
__attribute__((weak)) void LinearCrossEntropy(const LinearCrossEntropyArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "LinearCrossEntropy is not written yet");
}
__attribute__((weak)) size_t AdamWScratchBytes(const AdamWArgs&, int) { return 0; }
__attribute__((weak)) void AdamW(const AdamWArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "AdamW is not written yet");
}
__attribute__((weak)) size_t GlobalNormScratchBytes(const GlobalNormArgs&, int) { return 0; }
__attribute__((weak)) void GlobalNorm(const GlobalNormArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "GlobalNorm is not written yet");
}
__attribute__((weak)) size_t ClipByNormScratchBytes(const ClipByNormArgs&, int) { return 0; }
__attribute__((weak)) void ClipByNorm(const ClipByNormArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "ClipByNorm is not written yet");
}
__attribute__((weak)) void Binary(const BinaryArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "Binary is not written yet");
}
__attribute__((weak)) void Unary(const UnaryArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "Unary is not written yet");
}
__attribute__((weak)) void UnaryBackward(const UnaryBackwardArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "UnaryBackward is not written yet");
}
__attribute__((weak)) size_t ReduceSumScratchBytes(const ReduceSumArgs&, int) { return 0; }
__attribute__((weak)) void ReduceSum(const ReduceSumArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "ReduceSum is not written yet");
}
__attribute__((weak)) void Accumulate(const AccumulateArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "Accumulate is not written yet");
}
__attribute__((weak)) void Transpose(const TransposeArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "Transpose is not written yet");
}
__attribute__((weak)) size_t MatmulScratchBytes(const MatmulArgs&, int) { return 0; }
__attribute__((weak)) void Matmul(const MatmulArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "Matmul is not written yet");
}
__attribute__((weak)) void Random(const RandomArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "Random is not written yet");
}
__attribute__((weak)) size_t SampleScratchBytes(const SampleArgs&, int) { return 0; }
__attribute__((weak)) void Sample(const SampleArgs&, Scratch, Context&) {
  Throw("ERR_UNSUPPORTED", "cuda", "Sample is not written yet");
}

}  // namespace lora::cuda
