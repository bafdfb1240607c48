// Permutation of dimensions.
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t TransposeScratchBytes(const TransposeArgs&, int threads);
void Transpose(const TransposeArgs&, Scratch, Context&);

}  // namespace lora::cpu
