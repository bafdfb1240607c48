// How the tested backend computes a linear layer.
#pragma once

#include <algorithm>

#include "test/support/lora_problem.h"
#include "test/support/tested.h"

namespace lora::test {

inline Precision PrecisionOf(const LoraLinearProblem& problem) {
  const DType dtype = problem.shape.dtype;
  if (Tested().tensor_cores) return Precision::OnTensorCores(dtype);
  const bool few = problem.shape.m <= Tested().few_rows &&
                   std::ranges::none_of(problem.branches, [](const BranchOperands& branch) {
                     return branch.dropout.active();
                   });
  const bool decodes =
      problem.phase == LinearPhase::kAuto ? few : problem.phase == LinearPhase::kDecode;
  return Precision::Of(dtype, decodes);
}

}  // namespace lora::test
