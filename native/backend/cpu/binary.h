// Arithmetic of two tensors with NumPy broadcasting.
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t BinaryScratchBytes(const BinaryArgs&, int threads);
void Binary(const BinaryArgs&, Scratch, Context&);

}  // namespace lora::cpu
