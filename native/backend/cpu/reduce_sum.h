// Sums over dimensions.
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t ReduceSumScratchBytes(const ReduceSumArgs&, int threads);
void ReduceSum(const ReduceSumArgs&, Scratch, Context&);

}  // namespace lora::cpu
