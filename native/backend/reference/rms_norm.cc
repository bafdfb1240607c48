// Over rows of d elements:
//   s    = x + addend
//   rstd = 1/√(mean(s²) + eps)
//   y    = s·rstd·weight
//   dx   = g_sum + rstd·(g·weight − x·rstd²·mean(g·weight·x))
#include <algorithm>
#include <cmath>

#include "backend/reference/kernels.h"
#include "backend/reference/rows.h"

namespace lora::reference {

void Run(const RmsNormForwardArgs& args, Scratch, Context&) {
  const int64_t d = args.x.dim(1);
  for (int64_t row = 0; row < args.x.dim(0); ++row) {
    if (args.addend) {
      for (int64_t i = row * d; i < (row + 1) * d; ++i)
        Store(args.sum, i, Load(args.x, i) + Load(args.addend, i));
    }
    Vector x = LoadRange(args.addend ? args.sum : args.x, row * d, d);
    double square = 0;
    for (const double value : x) square += value * value;
    const double rstd =
        1 / std::sqrt(square / static_cast<double>(std::max<int64_t>(d, 1)) + args.eps);
    for (int64_t c = 0; c < d; ++c) x[static_cast<size_t>(c)] *= rstd * Load(args.weight, c);
    StoreRange(args.y, row * d, x);
    if (args.rstd) Store(args.rstd, row, rstd);
  }
}

void Run(const RmsNormBackwardArgs& args, Scratch, Context&) {
  const int64_t d = args.x.dim(1);
  for (int64_t row = 0; row < args.x.dim(0); ++row) {
    const double rstd = Load(args.rstd, row);
    double sum = 0;
    for (int64_t c = 0; c < d; ++c) {
      const int64_t i = row * d + c;
      sum += Load(args.g, i) * Load(args.weight, c) * Load(args.x, i);
    }
    const double pull = rstd * rstd * sum / static_cast<double>(d);
    for (int64_t c = 0; c < d; ++c) {
      const int64_t i = row * d + c;
      const double dx = rstd * (Load(args.g, i) * Load(args.weight, c) - Load(args.x, i) * pull) +
                        (args.g_sum ? Load(args.g_sum, i) : 0);
      Store(args.dx, i, dx);
      if (args.d_addend) Store(args.d_addend, i, dx);
    }
  }
}

}  // namespace lora::reference
