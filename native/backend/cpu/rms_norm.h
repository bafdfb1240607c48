// Root mean square normalisation of rows and its gradient (formulas: core/ops.h).
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t RmsNormForwardScratchBytes(const RmsNormForwardArgs&, int threads);
void RmsNormForward(const RmsNormForwardArgs&, Scratch, Context&);

size_t RmsNormBackwardScratchBytes(const RmsNormBackwardArgs&, int threads);
void RmsNormBackward(const RmsNormBackwardArgs&, Scratch, Context&);

}  // namespace lora::cpu
