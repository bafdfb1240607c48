// Builds the operands by which the rows of `sample` are drawn.
#pragma once

#include <cstdint>

#include "core/ops/ops.h"
#include "test/support/tensors.h"

namespace lora::test {

struct SampleRules {
  float temperature = 1;
  int64_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
};

// Holds reals and wholes of rows that share their rules and seed. Row i has the step first + i.
struct SampleRows {
  Tensor reals, wholes;

  SampleRows(int64_t rows, const SampleRules& rules, uint64_t seed, uint32_t first_step)
      : reals(DType::kF32, {rows, 3}), wholes(DType::kI32, {rows, 4}) {
    for (int64_t row = 0; row < rows; ++row) {
      SetRules(row, rules);
      SetSeed(row, seed, first_step + static_cast<uint32_t>(row));
    }
  }
  void SetRules(int64_t row, const SampleRules& rules) {
    float* to = reals.view().as<float>() + row * 3;
    to[0] = rules.temperature;
    to[1] = rules.top_p;
    to[2] = rules.min_p;
    wholes.view().as<int32_t>()[row * 4] = static_cast<int32_t>(rules.top_k);
  }
  void SetSeed(int64_t row, uint64_t seed, uint32_t step) {
    int32_t* to = wholes.view().as<int32_t>() + row * 4;
    to[1] = static_cast<int32_t>(step);
    to[2] = static_cast<int32_t>(static_cast<uint32_t>(seed));
    to[3] = static_cast<int32_t>(static_cast<uint32_t>(seed >> 32));
  }
  SampleArgs Args(const Tensor& logits, const Tensor& ids) const {
    return {logits, reals, wholes, ids};
  }
};

}  // namespace lora::test
