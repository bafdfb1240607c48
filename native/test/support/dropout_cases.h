// dropout: inputs, results of the reference and bounds, for every backend.
#pragma once

#include <cmath>
#include <vector>

#include "test/support/rounding.h"
#include "test/support/run.h"
#include "test/support/tensors.h"

namespace lora::test {

struct DropoutCase {
  DropoutCase(DType dtype, int64_t rows, int64_t columns, const Dropout& dropout)
      : dropout(dropout), x(Normal(dtype, {rows, columns}, 1)), y(dtype, {rows, columns}) {
    Run(ReferenceBackend(), DropoutArgs{x, dropout, y});
    for (const double value : y.Values())
      bounds.push_back(kU * std::fabs(value) + RoundingBound(dtype, value));
  }
  Dropout dropout;
  Tensor x, y;  // y of the reference
  std::vector<double> bounds;
};

// Every number of the mask counts: the high bits of the seed, layer, forward; p at its ends.
inline const std::vector<Dropout>& Dropouts() {
  static const std::vector<Dropout> dropouts = {
      {0.0f, 1, 2, 3},  {0.25f, 7, 0, 0},           {0.25f, (uint64_t{5} << 32) + 7, 0, 0},
      {0.9f, 3, 41, 1}, {0.5f, 3, 41, 4294967295u},
  };
  return dropouts;
}

}  // namespace lora::test
