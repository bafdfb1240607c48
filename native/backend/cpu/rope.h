// Rotary position embedding (formula: core/ops.h).
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t RopeScratchBytes(const RopeArgs&, int threads);
void Rope(const RopeArgs&, Scratch, Context&);

}  // namespace lora::cpu
