// The fused linear layers with LoRA and their gradients (formulas: core/ops.h).
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t LoraLinearForwardScratchBytes(const LoraLinearForwardArgs&, int threads);
void LoraLinearForward(const LoraLinearForwardArgs&, Scratch, Context&);

size_t LoraLinearBackwardScratchBytes(const LoraLinearBackwardArgs&, int threads);
void LoraLinearBackward(const LoraLinearBackwardArgs&, Scratch, Context&);

}  // namespace lora::cpu
