// Draws a token from each row of logits.
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t SampleScratchBytes(const SampleArgs&, int threads);
void Sample(const SampleArgs&, Scratch, Context&);

}  // namespace lora::cpu
