// One step of AdamW (formula: core/ops.h).
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t AdamWScratchBytes(const AdamWArgs&, int threads);
void AdamW(const AdamWArgs&, Scratch, Context&);

}  // namespace lora::cpu
