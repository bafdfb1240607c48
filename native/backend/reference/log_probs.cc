// log softmax(logits) at an id and at the n largest.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "backend/reference/kernels.h"
#include "backend/reference/rows.h"

namespace lora::reference {
namespace {

double LogSumOf(const Vector& logits) {
  double largest = -std::numeric_limits<double>::infinity();
  for (const double z : logits) largest = std::max(largest, z);
  if (std::isinf(largest)) return largest;
  double sum = 0;
  for (const double z : logits) sum += std::exp(z - largest);
  return largest + std::log(sum);
}

}  // namespace

void Run(const LogProbsArgs& args, Scratch, Context&) {
  const int64_t vocab = args.logits.dim(1);
  for (int64_t row = 0; row < args.logits.dim(0); ++row) {
    const Vector logits = LoadRange(args.logits, row * vocab, vocab);
    const double lse = LogSumOf(logits);
    std::vector<int32_t> order;
    for (int32_t v = 0; v < vocab; ++v) {
      if (!std::isnan(logits[static_cast<size_t>(v)])) order.push_back(v);
    }
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    order.resize(static_cast<size_t>(args.n), -1);
    order.insert(order.begin(), args.ids.as<int32_t>()[row]);
    for (int64_t i = 0; i <= args.n; ++i) {
      const int32_t id = order[static_cast<size_t>(i)];
      const bool inside = id >= 0 && id < vocab;
      args.top_ids.as<int32_t>()[row * (1 + args.n) + i] = id;
      args.values.as<float>()[row * (1 + args.n) + i] =
          inside ? static_cast<float>(logits[static_cast<size_t>(id)] - lse)
                 : std::numeric_limits<float>::quiet_NaN();
    }
  }
}

template PlannedCall Plan(const LogProbsArgs&, int);
}  // namespace lora::reference
