// Computes the shapes of results as the checks demand them. Each function throws
// Error(ERR_ARGUMENT) where the operands do not fit.
#pragma once

#include <vector>

#include "core/ops/tensor_view.h"

namespace lora {

// Broadcasts as NumPy does: shapes are aligned at the right, and a dimension of 1 stretches.
Shape BroadcastShapes(const char* op, const Shape& a, const Shape& b);
// Returns the shape of a product over the last two dimensions; leading ones broadcast.
Shape MatmulShape(const Shape& a, const Shape& b, bool trans_a, bool trans_b);
// Returns a shape whose dimension d is dimension perm[d] of `shape`.
Shape TransposedShape(const Shape& shape, const std::vector<int>& perm);

}  // namespace lora
