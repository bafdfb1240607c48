// Summed cross entropy of whole logits and its gradient (formulas: core/ops.h).
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t CrossEntropyForwardScratchBytes(const CrossEntropyForwardArgs&, int threads);
void CrossEntropyForward(const CrossEntropyForwardArgs&, Scratch, Context&);

size_t CrossEntropyBackwardScratchBytes(const CrossEntropyBackwardArgs&, int threads);
void CrossEntropyBackward(const CrossEntropyBackwardArgs&, Scratch, Context&);

}  // namespace lora::cpu
