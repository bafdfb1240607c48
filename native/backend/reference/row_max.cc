// The largest element of a row, where it is, and ln Σ exp(x − max).
#include <cmath>

#include "backend/reference/kernels.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const RowMaxArgs& args, Scratch, Context&) {
  const int64_t d = args.x.dim(1);
  for (int64_t row = 0; row < args.x.dim(0); ++row) {
    int64_t at = 0;
    double max = Load(args.x, row * d);
    for (int64_t i = 1; i < d && !std::isnan(max); ++i) {
      const double value = Load(args.x, row * d + i);
      if (!(value > max) && !std::isnan(value)) continue;
      max = value;
      at = i;
    }
    double sum = 0;
    for (int64_t i = 0; i < d; ++i) sum += std::exp(Load(args.x, row * d + i) - max);
    if (args.max) Store(args.max, row, max);
    if (args.index) Store(args.index, row, static_cast<double>(at));
    if (args.log_sum) Store(args.log_sum, row, std::log(sum));
  }
}

template PlannedCall Plan(const RowMaxArgs&, int);
}  // namespace lora::reference
