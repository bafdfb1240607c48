// Draws a token per row. core/maths/sampling.h defines how, for the CPU backend as well.
#include "backend/reference/kernels.h"
#include "backend/reference/rows.h"
#include "core/maths/sampling.h"

namespace lora::reference {

size_t ScratchBytes(const SampleArgs& args, int) { return SampleRowScratchBytes(args); }

void Run(const SampleArgs& args, Scratch scratch, Context&) {
  const int64_t vocab = args.logits.dim(1);
  for (int64_t row = 0; row < args.logits.dim(0); ++row) {
    const Vector logits = LoadRange(args.logits, row * vocab, vocab);
    args.ids.as<int32_t>()[row] = SampleRow(args, row, logits.data(), scratch);
  }
}

}  // namespace lora::reference
