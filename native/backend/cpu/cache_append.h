// Writes new keys or values into a cache (core/ops.h).
#pragma once

#include "core/backend.h"

namespace lora::cpu {

size_t CacheAppendScratchBytes(const CacheAppendArgs&, int threads);
void CacheAppend(const CacheAppendArgs&, Scratch, Context&);

}  // namespace lora::cpu
