// Lists the cases of lora_linear, forward and backward, of every backend.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/maths/dtype.h"

namespace lora::test {

struct BranchCase {
  int64_t n = 0;  // outputs
  int64_t r = 0;  // rank; 0: no LoRA, the plain frozen layer
  bool bias = false;
  float dropout = 0;
  bool factor = false;
};

struct LoraLinearCase {
  DType dtype = DType::kF32;
  int64_t m = 0, k = 0;  // rows, inputs
  std::vector<BranchCase> branches;
  std::string Name() const;  // "f32 m 7 k 64: n 63 r 4 bias dropout 0.1; n 1 r 0"
};

LoraLinearCase CaseOf(DType dtype, int64_t m, int64_t k, std::vector<BranchCase> branches);

// Returns cases of sizes 0, 1, 3, 7, one below, at and above the tiles of 6 rows, 64 columns and
// 512 inputs; ranks 0, 1, 3, 4, 8, 16, 64, 65; bias, dropout, factor, several branches; each in f32
// and bf16. All of them run in well under a second on one thread of a CPU.
const std::vector<LoraLinearCase>& LoraLinearCases();

}  // namespace lora::test
