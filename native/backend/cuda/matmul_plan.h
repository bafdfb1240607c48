// Plans how a product with leading dimensions becomes products of gemm.h. A plan is a pure function
// of shapes and dtypes.
#pragma once

#include "backend/cuda/device/nest.h"
#include "backend/cuda/gemm.h"

namespace lora::cuda {

struct MatmulPlan {
  GemmProblem gemm;        // the product of the first launch
  device::Nest<3> others;  // a launch for each of its elements; strides of a, b and y
  int64_t launches = 1;
};

// Leading dimensions are joined where they are one run in a, b and y. Consecutive matrices of rows
// that share b become one tall matrix. The longest dimension that is left is the batch of a launch.
// y must have elements.
MatmulPlan PlanMatmul(const MatmulArgs& args);

}  // namespace lora::cuda
