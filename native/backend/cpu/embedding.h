// Rows of a packed matrix (core/ops.h).
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t EmbeddingScratchBytes(const EmbeddingArgs&, int threads);
void Embedding(const EmbeddingArgs&, Scratch, Context&);

}  // namespace lora::cpu
