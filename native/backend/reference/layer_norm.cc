// Over rows of d elements:
//   mean = Σ x/d
//   rstd = 1/√(Σ (x − mean)²/d + eps)
//   n    = (x − mean)·rstd
//   y    = n·weight + bias
//   dx   = rstd·(g·weight − mean(g·weight) − n·mean(g·weight·n))
#include <algorithm>
#include <cmath>

#include "backend/reference/kernels.h"
#include "backend/reference/rows.h"

namespace lora::reference {

void Run(const LayerNormForwardArgs& args, Scratch, Context&) {
  const int64_t d = args.x.dim(1);
  const auto count = static_cast<double>(std::max<int64_t>(d, 1));
  for (int64_t row = 0; row < args.x.dim(0); ++row) {
    const Vector x = LoadRange(args.x, row * d, d);
    double mean = 0, square = 0;
    for (const double value : x) mean += value / count;
    for (const double value : x) square += (value - mean) * (value - mean);
    const double rstd = 1 / std::sqrt(square / count + args.eps);
    for (int64_t c = 0; c < d; ++c) {
      const double normed = (x[static_cast<size_t>(c)] - mean) * rstd;
      Store(args.y, row * d + c, normed * Load(args.weight, c) + Load(args.bias, c));
    }
    if (args.mean) Store(args.mean, row, mean);
    if (args.rstd) Store(args.rstd, row, rstd);
  }
}

void Run(const LayerNormBackwardArgs& args, Scratch, Context&) {
  const int64_t d = args.x.dim(1);
  for (int64_t row = 0; row < args.x.dim(0); ++row) {
    const double mean = Load(args.mean, row), rstd = Load(args.rstd, row);
    const Vector x = LoadRange(args.x, row * d, d), g = LoadRange(args.g, row * d, d);
    const auto normed = [&](size_t c) { return (x[c] - mean) * rstd; };
    const auto pulled = [&](size_t c) { return g[c] * Load(args.weight, static_cast<int64_t>(c)); };
    double sum = 0, along = 0;
    for (size_t c = 0; c < x.size(); ++c) {
      sum += pulled(c) / static_cast<double>(d);
      along += pulled(c) * normed(c) / static_cast<double>(d);
    }
    for (size_t c = 0; c < x.size(); ++c)
      Store(args.dx, row * d + static_cast<int64_t>(c),
            rstd * (pulled(c) - sum - normed(c) * along));
  }
}

template PlannedCall Plan(const LayerNormForwardArgs&, int);
template PlannedCall Plan(const LayerNormBackwardArgs&, int);
}  // namespace lora::reference
