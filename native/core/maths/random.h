// Draws seeded uniform and normal numbers, the same bits in every backend that computes on the
// host.
#pragma once

#include <cstdint>

#include "core/ops/ops.h"

namespace lora {

// out[0 .. end − begin) ← elements [begin, end) of the sequence of (seed, stream); an element
// depends on nothing but these and its index i, so the range may be cut anywhere.
//
// The Philox call with key seed and counter (i / 4 low, i / 4 high, stream, "RAND") gives the four
// words w of elements 4·⌊i / 4⌋ … + 3. With u(w) = w / 2³², in double, rounded to f32 at the end:
//   kUniform: element j = lo + (hi − lo)·u(w_j); where that rounds up to hi, the next smaller f32
//   kNormal:  elements 2p and 2p + 1 = lo + hi·√(−2·ln(1 − u(w_2p)))·cos / sin(2π·u(w_2p+1))
void RandomElements(const RandomArgs& args, int64_t begin, int64_t end, float* out);

}  // namespace lora
