// One warp, one instruction: what each lane's registers held.
#pragma once

#include <cstdint>

#include "test/simt/simt.h"

namespace lora::simt {

// in: four 8×8 matrices of 16-bit elements, one after another; out[lane * 4 + i]: register i of a
// lane.
Result LoadMatrixLayout(const Options& options, bool transposed, int matrices, const uint16_t* in,
                        uint32_t* out);
// d = a·b + c. a: [16, 16] 16-bit elements, b: [16, 8], c and d: [16, 8] f32, all row-major. Each
// lane picks its elements by the formulas of the PTX manual, written once more in the kernel.
Result MmaLayout(const Options& options, bool bf16, const uint16_t* a, const uint16_t* b,
                 const float* c, float* d);

}  // namespace lora::simt
