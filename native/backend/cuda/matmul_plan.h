// How a product with leading dimensions becomes products of gemm.h: a pure function of shapes and
// dtypes.
#pragma once

#include "backend/cuda/device/nest.h"
#include "backend/cuda/gemm.h"

namespace lora::cuda {

struct MatmulPlan {
  GemmProblem gemm;        // of the first launch
  device::Nest<3> others;  // a launch for each place in them: how far on it is in a, b and y
  int64_t launches = 1;
};

// Of the leading dimensions, neighbours that are one run in a, b and y are joined; rows of matrices
// in a row that share b are one tall matrix; the longest dimension that is left is the batch of a
// launch. y has elements.
MatmulPlan PlanMatmul(const MatmulArgs& args);

}  // namespace lora::cuda
