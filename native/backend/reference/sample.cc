// Draws a token per row. core/maths/sampling.h defines how, for the CPU backend as well.
#include "backend/reference/kernels.h"
#include "backend/reference/rows.h"
#include "core/maths/sampling.h"

namespace lora::reference {

size_t ScratchBytes(const SampleArgs& args, int) {
  return SampleRowScratchBytes(args.logits.dim(1));
}

void Run(const SampleArgs& args, Scratch scratch, Context&) {
  const int64_t rows = args.logits.dim(0), vocab = args.logits.dim(1);
  const auto* reals = args.reals.as<const float>();
  const auto* wholes = args.wholes.as<const int32_t>();
  RequireRowSampling(reals, wholes, rows);
  for (int64_t row = 0; row < rows; ++row) {
    const Vector logits = LoadRange(args.logits, row * vocab, vocab);
    args.ids.as<int32_t>()[row] =
        SampleRow(RowSamplingOf(reals, wholes, row), logits.data(), vocab, scratch);
  }
}

template PlannedCall Plan(const SampleArgs&, int);
}  // namespace lora::reference
