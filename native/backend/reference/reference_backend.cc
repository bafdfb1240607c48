// The reference backend defines what is correct: its ops are scalar loops with double accumulators,
// which are slow and easy to check.
#include "backend/reference/kernels.h"

namespace lora {
namespace reference {
namespace {

class ReferenceContext final : public Context {};

std::unique_ptr<Context> CreateContext(int) { return std::make_unique<ReferenceContext>(); }

// A packed matrix is row-major, so both directions read the same copy.
size_t PackedBytes(int64_t rows, int64_t cols, DType dtype, Direction direction) {
  if (direction == Direction::kBackward) return 0;
  return static_cast<size_t>(rows * cols) * SizeOf(dtype);
}

template <class Args>
size_t NoScratch(const Args&, int) {
  return 0;
}

Backend Table() {
  Backend b;
  b.name = "reference";
  b.create_context = CreateContext;
  b.f16_activations = true;
  b.packed_bytes = PackedBytes;
  b.pack = {NoScratch, Pack};
  b.unpack = {NoScratch, Unpack};
  b.lora_linear_forward = {NoScratch, LoraLinearForward};
  b.lora_linear_backward = {NoScratch, LoraLinearBackward};
  b.embedding = {NoScratch, Embedding};
  b.rms_norm_forward = {NoScratch, RmsNormForward};
  b.rms_norm_backward = {NoScratch, RmsNormBackward};
  b.rope = {NoScratch, Rope};
  b.attention_forward = {NoScratch, AttentionForward};
  b.attention_backward = {NoScratch, AttentionBackward};
  b.cache_append = {NoScratch, CacheAppend};
  b.swiglu_forward = {NoScratch, SwigluForward};
  b.swiglu_backward = {NoScratch, SwigluBackward};
  b.cross_entropy_forward = {NoScratch, CrossEntropyForward};
  b.cross_entropy_backward = {NoScratch, CrossEntropyBackward};
  b.linear_cross_entropy = {NoScratch, LinearCrossEntropy};
  b.adamw = {NoScratch, AdamW};
  b.global_norm = {NoScratch, GlobalNorm};
  b.clip_by_norm = {NoScratch, ClipByNorm};
  b.binary = {NoScratch, Binary};
  b.unary = {NoScratch, Unary};
  b.unary_backward = {NoScratch, UnaryBackward};
  b.reduce_sum = {NoScratch, ReduceSum};
  b.accumulate = {NoScratch, Accumulate};
  b.fill = {NoScratch, Fill};
  b.transpose = {NoScratch, Transpose};
  b.matmul = {NoScratch, Matmul};
  b.random = {NoScratch, Random};
  b.sample = {SampleScratchBytes, Sample};
  return b;
}

}  // namespace
}  // namespace reference

const Backend& ReferenceBackend() {
  static const Backend backend = reference::Table();
  return backend;
}

}  // namespace lora
