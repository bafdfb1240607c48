#pragma once

#include "simt/simt.h"

namespace lora::simt {

constexpr size_t kFunctions = 6;
// y[i, ·] = exp, log, pow(·, 0.7) and exp2 of x[i] in f32, and exp and log of it in double.
Result Functions(const Options& options, size_t count, const float* x, double* y);

}  // namespace lora::simt
