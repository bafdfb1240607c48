// Draws one row per task with the algorithm that all host backends share (core/maths/sampling.h).
#include "backend/cpu/arena.h"
#include "backend/cpu/context.h"
#include "backend/cpu/convert.h"
#include "backend/cpu/kernels.h"
#include "core/maths/sampling.h"

namespace lora::cpu {
namespace {

// The scratch of one thread.
struct RowScratch {
  float* logits = nullptr;  // where they are not f32 already
  std::byte* draw = nullptr;
  RowScratch(const SampleArgs& args, Arena& arena) {
    if (args.logits.dtype != DType::kF32) {
      logits = arena.Take<float>(static_cast<size_t>(args.logits.dim(1)));
    }
    draw = arena.Take<std::byte>(SampleRowScratchBytes(args));
  }
};

size_t BytesOfThread(const SampleArgs& args) {
  Arena arena;
  RowScratch(args, arena);
  return arena.bytes();
}

}  // namespace

size_t ScratchBytes(const SampleArgs& args, int threads) {
  return BytesOfThread(args) * static_cast<size_t>(threads);
}

void Run(const SampleArgs& args, Scratch scratch, Context& context) {
  RequireActivation("sample", args.logits.dtype);
  const size_t rows = static_cast<size_t>(args.logits.dim(0));
  const size_t vocab = static_cast<size_t>(args.logits.dim(1));
  const size_t per_thread = BytesOfThread(args);
  static_cast<CpuContext&>(context).ParallelFor(rows, [&](size_t row, size_t thread) {
    Arena arena(scratch.subspan(thread * per_thread, per_thread));
    const RowScratch own(args, arena);
    const float* logits = args.logits.as<const float>() + row * vocab;
    if (own.logits != nullptr) {
      const size_t row_bytes = vocab * SizeOf(args.logits.dtype);
      ConvertToF32(args.logits.as<const std::byte>() + row * row_bytes, args.logits.dtype, vocab,
                   own.logits);
      logits = own.logits;
    }
    args.ids.as<int32_t>()[row] =
        SampleRow(args, static_cast<int64_t>(row), logits, {own.draw, SampleRowScratchBytes(args)});
  });
}

}  // namespace lora::cpu
