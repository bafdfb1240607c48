// Fills the CPU backend's table of ops.
#include "backend/cpu/accumulate.h"
#include "backend/cpu/adamw.h"
#include "backend/cpu/attention.h"
#include "backend/cpu/binary.h"
#include "backend/cpu/cache_append.h"
#include "backend/cpu/context.h"
#include "backend/cpu/cross_entropy.h"
#include "backend/cpu/embedding.h"
#include "backend/cpu/fill.h"
#include "backend/cpu/global_norm.h"
#include "backend/cpu/linear_cross_entropy.h"
#include "backend/cpu/lora_linear.h"
#include "backend/cpu/matmul.h"
#include "backend/cpu/pack.h"
#include "backend/cpu/random.h"
#include "backend/cpu/reduce_sum.h"
#include "backend/cpu/rms_norm.h"
#include "backend/cpu/rope.h"
#include "backend/cpu/sample.h"
#include "backend/cpu/swiglu.h"
#include "backend/cpu/targets.h"
#include "backend/cpu/transpose.h"
#include "backend/cpu/unary.h"
#include "core/backend.h"

namespace lora {
namespace {

std::unique_ptr<Context> CreateContext(int threads) {
  cpu::LimitTargetsByEnvironment();
  return std::make_unique<cpu::CpuContext>(threads);
}

// The layout of packed weights depends on the target, and may be asked for before there is any
// context to choose the target.
size_t PackedBytes(int64_t rows, int64_t cols, DType dtype, Direction direction) {
  cpu::LimitTargetsByEnvironment();
  return cpu::PackedBytes(rows, cols, dtype, direction);
}

Backend MakeBackend() {
  Backend b;
  b.name = "cpu";
  b.create_context = CreateContext;
  b.packed_bytes = PackedBytes;
  b.pack = {cpu::PackScratchBytes, cpu::Pack};
  b.unpack = {cpu::UnpackScratchBytes, cpu::Unpack};
  b.lora_linear_forward = {cpu::LoraLinearForwardScratchBytes, cpu::LoraLinearForward};
  b.lora_linear_backward = {cpu::LoraLinearBackwardScratchBytes, cpu::LoraLinearBackward};
  b.embedding = {cpu::EmbeddingScratchBytes, cpu::Embedding};
  b.rms_norm_forward = {cpu::RmsNormForwardScratchBytes, cpu::RmsNormForward};
  b.rms_norm_backward = {cpu::RmsNormBackwardScratchBytes, cpu::RmsNormBackward};
  b.rope = {cpu::RopeScratchBytes, cpu::Rope};
  b.attention_forward = {cpu::AttentionForwardScratchBytes, cpu::AttentionForward};
  b.attention_backward = {cpu::AttentionBackwardScratchBytes, cpu::AttentionBackward};
  b.cache_append = {cpu::CacheAppendScratchBytes, cpu::CacheAppend};
  b.swiglu_forward = {cpu::SwigluForwardScratchBytes, cpu::SwigluForward};
  b.swiglu_backward = {cpu::SwigluBackwardScratchBytes, cpu::SwigluBackward};
  b.cross_entropy_forward = {cpu::CrossEntropyForwardScratchBytes, cpu::CrossEntropyForward};
  b.cross_entropy_backward = {cpu::CrossEntropyBackwardScratchBytes, cpu::CrossEntropyBackward};
  b.linear_cross_entropy = {cpu::LinearCrossEntropyScratchBytes, cpu::LinearCrossEntropy};
  b.adamw = {cpu::AdamWScratchBytes, cpu::AdamW};
  b.global_norm = {cpu::GlobalNormScratchBytes, cpu::GlobalNorm};
  b.clip_by_norm = {cpu::ClipByNormScratchBytes, cpu::ClipByNorm};
  b.binary = {cpu::BinaryScratchBytes, cpu::Binary};
  b.unary = {cpu::UnaryScratchBytes, cpu::Unary};
  b.unary_backward = {cpu::UnaryBackwardScratchBytes, cpu::UnaryBackward};
  b.reduce_sum = {cpu::ReduceSumScratchBytes, cpu::ReduceSum};
  b.accumulate = {cpu::AccumulateScratchBytes, cpu::Accumulate};
  b.fill = {cpu::FillScratchBytes, cpu::Fill};
  b.transpose = {cpu::TransposeScratchBytes, cpu::Transpose};
  b.matmul = {cpu::MatmulScratchBytes, cpu::Matmul};
  b.random = {cpu::RandomScratchBytes, cpu::Random};
  b.sample = {cpu::SampleScratchBytes, cpu::Sample};
  return b;
}

}  // namespace

const Backend& CpuBackend() {
  static const Backend backend = MakeBackend();
  return backend;
}

}  // namespace lora
