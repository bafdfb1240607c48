// Computes the shapes of results as the checks demand them. Each function throws
// Error(ERR_ARGUMENT) where the operands do not fit.
#pragma once

#include <vector>

#include "core/ops/tensor_view.h"

namespace lora {

// NumPy's rule: aligned at the right, a dimension of 1 stretches.
Shape BroadcastShapes(const char* op, const Shape& a, const Shape& b);
// The product of the last two dimensions, leading ones broadcast.
Shape MatmulShape(const Shape& a, const Shape& b, bool trans_a, bool trans_b);
// Dimension d is dimension perm[d] of `shape`.
Shape TransposedShape(const Shape& shape, const std::vector<int>& perm);

}  // namespace lora
