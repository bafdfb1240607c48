// Seeded uniform and normal numbers.
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t RandomScratchBytes(const RandomArgs&, int threads);
void Random(const RandomArgs&, Scratch, Context&);

}  // namespace lora::cpu
