// y = a·b over the last two dimensions (core/ops.h).
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t MatmulScratchBytes(const MatmulArgs&, int threads);
void Matmul(const MatmulArgs&, Scratch, Context&);

}  // namespace lora::cpu
