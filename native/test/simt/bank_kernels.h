// Declares kernels with accesses of shared memory whose bank conflicts are known.
#pragma once

#include "simt/simt.h"

namespace lora::simt {

// Each of 64 threads reads `bytes` (2, 4, 8 or 16) at stride · lane, in bytes, and with `some` only
// three of four lanes do, from two turns of a loop. out: 64 words.
Result StridedReads(const Options& options, int bytes, int stride, bool some, uint32_t* out);

}  // namespace lora::simt
