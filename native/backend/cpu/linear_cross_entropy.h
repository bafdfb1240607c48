// Cross entropy fused with the frozen output projection, a chunk of rows at a time (core/ops.h).
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t LinearCrossEntropyScratchBytes(const LinearCrossEntropyArgs&, int threads);
void LinearCrossEntropy(const LinearCrossEntropyArgs&, Scratch, Context&);

}  // namespace lora::cpu
