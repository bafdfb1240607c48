// cross_entropy and linear_cross_entropy share these functions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "backend/reference/rows.h"
#include "core/error.h"

namespace lora::reference {

constexpr int32_t kIgnored = -100;

// Returns log Σ exp(logits).
inline double LogSumExp(const Vector& logits) {
  double largest = -std::numeric_limits<double>::infinity();
  for (const double logit : logits) largest = std::max(largest, logit);
  if (std::isinf(largest)) return largest;
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

// Returns how many labels count. Throws where a label is no token, or where no label counts.
inline int64_t CountLabels(const char* op, const TensorView& labels, int64_t vocab) {
  int64_t count = 0;
  for (int64_t i = 0; i < labels.numel(); ++i) {
    const int32_t label = labels.as<int32_t>()[i];
    if (label == kIgnored) continue;
    if (label < 0 || label >= vocab) {
      Throw("ERR_DATA", op, "expected labels from 0 to ", vocab - 1, ", or -100, but received ",
            label, " at row ", i);
    }
    ++count;
  }
  if (count == 0) Throw("ERR_DATA", op, "expected at least one label that is not -100");
  return count;
}

}  // namespace lora::reference
