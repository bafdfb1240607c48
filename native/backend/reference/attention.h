// One query of attention, whose formula attention.cc gives.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "backend/reference/rows.h"

namespace lora::reference {

// The sink of a head, −∞ where there are none.
inline double SinkOf(const TensorView& sinks, int64_t head) {
  return sinks ? Load(sinks, head) : -std::numeric_limits<double>::infinity();
}

// Attends from one query, at offset `query` of q, to the keys first ≤ j ≤ last, where key j and its
// value are at offset key(j). Writes y at the same offset and returns lse.
template <class KeyOffset>
double Attend(const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& y,
              int64_t query, int64_t first, int64_t last, double scale, double sink,
              const KeyOffset& key) {
  const int64_t d = q.dim(3);
  const Vector row = LoadRange(q, query, d);
  Vector scores;
  double largest = sink;
  for (int64_t j = first; j <= last; ++j) {
    scores.push_back(scale * Dot(row, k, key(j)));
    largest = std::max(largest, scores.back());
  }
  double sum = std::isinf(sink) ? 0 : std::exp(sink - largest);
  for (double& score : scores) {
    score = std::exp(score - largest);
    sum += score;
  }
  Vector mixed(static_cast<size_t>(d), 0.0);
  for (size_t n = 0; n < scores.size(); ++n) {
    const Vector value = LoadRange(v, key(first + static_cast<int64_t>(n)), d);
    for (size_t c = 0; c < mixed.size(); ++c) mixed[c] += scores[n] / sum * value[c];
  }
  StoreRange(y, query, mixed);
  return scores.empty() ? largest : largest + std::log(sum);
}

}  // namespace lora::reference
