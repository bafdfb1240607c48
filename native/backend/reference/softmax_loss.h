// cross_entropy and linear_cross_entropy share these functions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "backend/reference/rows.h"
#include "core/ops/labels.h"

namespace lora::reference {

// Returns log Σ exp(logits).
inline double LogSumExp(const Vector& logits) {
  double largest = -std::numeric_limits<double>::infinity();
  for (const double logit : logits) largest = std::max(largest, logit);
  if (std::isinf(largest)) return largest;
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

// Returns −Σ p·log p of p = exp(logits − lse). An excluded token, of −∞, adds nothing.
inline double Entropy(const Vector& logits, double lse) {
  double sum = 0;
  for (const double logit : logits) {
    const double p = std::exp(logit - lse);
    if (p != 0) sum += p * (lse - logit);
  }
  return sum;
}

}  // namespace lora::reference
