// Compares gradients with central differences, in double.
#pragma once

#include <functional>

#include "core/ops/backend.h"
#include "test/support/tensors.h"

namespace lora::test {

// Computes a loss anew from the present contents of the tensors it reads.
using LossFunction = std::function<double()>;

// Returns Σ weights·values. With random weights, the gradient of one number tests every output.
double Project(const Tensor& values, const Tensor& weights);

// Returns dL/dx by central differences. x (f64) is changed element by element, and restored.
Tensor CentralDifferences(Tensor& x, const LossFunction& loss);

// CHECKs that no element of `gradient` differs from central differences by more
// than 1e-7 of the largest element.
void CheckGradient(const char* name, Tensor& x, const Tensor& gradient, const LossFunction& loss);

}  // namespace lora::test
