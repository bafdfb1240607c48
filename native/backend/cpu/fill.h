// Every element the same value.
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t FillScratchBytes(const FillArgs&, int threads);
void Fill(const FillArgs&, Scratch, Context&);

}  // namespace lora::cpu
