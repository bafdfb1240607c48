// Fills the CUDA backend's table of ops.
#include "backend/cuda/context.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/runtime.h"
#include "core/backend.h"

namespace lora {
namespace {

Backend MakeBackend() {
  Backend b;
  b.name = "cuda";
  b.create_context = [](int) -> std::unique_ptr<Context> {
    return std::make_unique<cuda::CudaContext>(cuda::Gpu::Open(0));
  };
  b.f16_activations = true;
  b.packed_bytes = cuda::PackedBytes;
  b.pack = {nullptr, cuda::Pack};
  b.unpack = {nullptr, cuda::Unpack};
  b.lora_linear_forward = {cuda::LoraLinearForwardScratchBytes, cuda::LoraLinearForward};
  b.lora_linear_backward = {cuda::LoraLinearBackwardScratchBytes, cuda::LoraLinearBackward};
  b.embedding = {cuda::EmbeddingScratchBytes, cuda::Embedding};
  b.rms_norm_forward = {nullptr, cuda::RmsNormForward};
  b.rms_norm_backward = {cuda::RmsNormBackwardScratchBytes, cuda::RmsNormBackward};
  b.rope = {cuda::RopeScratchBytes, cuda::Rope};
  b.attention_forward = {cuda::AttentionForwardScratchBytes, cuda::AttentionForward};
  b.attention_backward = {cuda::AttentionBackwardScratchBytes, cuda::AttentionBackward};
  b.cache_append = {nullptr, cuda::CacheAppend};
  b.swiglu_forward = {nullptr, cuda::SwigluForward};
  b.swiglu_backward = {nullptr, cuda::SwigluBackward};
  b.cross_entropy_forward = {cuda::CrossEntropyForwardScratchBytes, cuda::CrossEntropyForward};
  b.cross_entropy_backward = {cuda::CrossEntropyBackwardScratchBytes, cuda::CrossEntropyBackward};
  b.linear_cross_entropy = {cuda::LinearCrossEntropyScratchBytes, cuda::LinearCrossEntropy};
  b.adamw = {cuda::AdamWScratchBytes, cuda::AdamW};
  b.global_norm = {cuda::GlobalNormScratchBytes, cuda::GlobalNorm};
  b.clip_by_norm = {cuda::ClipByNormScratchBytes, cuda::ClipByNorm};
  b.binary = {nullptr, cuda::Binary};
  b.unary = {nullptr, cuda::Unary};
  b.unary_backward = {nullptr, cuda::UnaryBackward};
  b.reduce_sum = {cuda::ReduceSumScratchBytes, cuda::ReduceSum};
  b.accumulate = {nullptr, cuda::Accumulate};
  b.fill = {nullptr, cuda::Fill};
  b.transpose = {nullptr, cuda::Transpose};
  b.matmul = {cuda::MatmulScratchBytes, cuda::Matmul};
  b.random = {nullptr, cuda::Random};
  b.sample = {cuda::SampleScratchBytes, cuda::Sample};
  return b;
}

}  // namespace

const Backend* CudaBackend() {
  static const Backend backend = MakeBackend();
  return cuda::UnavailableReason().empty() ? &backend : nullptr;
}

const char* CudaUnavailableReason() { return cuda::UnavailableReason().c_str(); }

}  // namespace lora
