// Functions of one tensor, casts among them, and their gradients.
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t UnaryScratchBytes(const UnaryArgs&, int threads);
void Unary(const UnaryArgs&, Scratch, Context&);

size_t UnaryBackwardScratchBytes(const UnaryBackwardArgs&, int threads);
void UnaryBackward(const UnaryBackwardArgs&, Scratch, Context&);

}  // namespace lora::cpu
