// y ← y + x.
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t AccumulateScratchBytes(const AccumulateArgs&, int threads);
void Accumulate(const AccumulateArgs&, Scratch, Context&);

}  // namespace lora::cpu
