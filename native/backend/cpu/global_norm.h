// The norm over many tensors, and clipping by it (formulas: core/ops.h).
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t GlobalNormScratchBytes(const GlobalNormArgs&, int threads);
void GlobalNorm(const GlobalNormArgs&, Scratch, Context&);

size_t ClipByNormScratchBytes(const ClipByNormArgs&, int threads);
void ClipByNorm(const ClipByNormArgs&, Scratch, Context&);

}  // namespace lora::cpu
