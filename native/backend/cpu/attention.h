// Causal grouped-query attention and its gradient (formulas: core/ops.h).
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t AttentionForwardScratchBytes(const AttentionForwardArgs&, int threads);
void AttentionForward(const AttentionForwardArgs&, Scratch, Context&);

size_t AttentionBackwardScratchBytes(const AttentionBackwardArgs&, int threads);
void AttentionBackward(const AttentionBackwardArgs&, Scratch, Context&);

}  // namespace lora::cpu
