// The shape and dtype rules of every op. Each throws Error(ERR_ARGUMENT) with one sentence:
// "[op] expected b of shape [16, 4096] (rank, in) but received [4096, 16]".
#pragma once

#include "core/ops.h"

namespace lora {

void Check(const PackArgs&);
void Check(const UnpackArgs&);
void Check(const LoraLinearForwardArgs&);
void Check(const LoraLinearBackwardArgs&);
void Check(const EmbeddingArgs&);
void Check(const RmsNormForwardArgs&);
void Check(const RmsNormBackwardArgs&);
void Check(const RopeArgs&);
void Check(const AttentionForwardArgs&);
void Check(const AttentionBackwardArgs&);
void Check(const CacheAppendArgs&);
void Check(const SwigluForwardArgs&);
void Check(const SwigluBackwardArgs&);
void Check(const CrossEntropyForwardArgs&);
void Check(const CrossEntropyBackwardArgs&);
void Check(const LinearCrossEntropyArgs&);
void Check(const AdamWArgs&);
void Check(const GlobalNormArgs&);
void Check(const ClipByNormArgs&);
void Check(const BinaryArgs&);
void Check(const UnaryArgs&);
void Check(const UnaryBackwardArgs&);
void Check(const ReduceSumArgs&);
void Check(const AccumulateArgs&);
void Check(const FillArgs&);
void Check(const TransposeArgs&);
void Check(const MatmulArgs&);
void Check(const RandomArgs&);
void Check(const SampleArgs&);

// The dtype of the activations of an op that may take f16: inference on backends that say so
// (Backend::f16_activations). f32 for all other ops.
template <class Args>
DType ActivationOf(const Args&) {
  return DType::kF32;
}
inline DType ActivationOf(const PackArgs& args) { return args.src.dtype; }
inline DType ActivationOf(const LoraLinearForwardArgs& args) { return args.x.dtype; }
inline DType ActivationOf(const EmbeddingArgs& args) { return args.y.dtype; }
inline DType ActivationOf(const RmsNormForwardArgs& args) { return args.x.dtype; }
inline DType ActivationOf(const RopeArgs& args) { return args.x.dtype; }
inline DType ActivationOf(const AttentionForwardArgs& args) { return args.q.dtype; }
inline DType ActivationOf(const SwigluForwardArgs& args) { return args.gate.dtype; }
inline DType ActivationOf(const SampleArgs& args) { return args.logits.dtype; }

}  // namespace lora
