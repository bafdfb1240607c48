// Over rows of d elements:
//   s    = x + addend
//   rstd = 1/√(mean(s²) + eps)
//   y    = s·rstd·w with w = offset + weight
//   dx   = g_sum + rstd·(g·w − x·rstd²·mean(g·w·x))
#include <algorithm>
#include <cmath>

#include "backend/reference/kernels.h"
#include "backend/reference/rows.h"

namespace lora::reference {
namespace {

// 1/√(mean(x²) + eps) of a row, not rounded as the rstd is that a forward pass keeps.
double RstdOf(const Vector& x, float eps) {
  double square = 0;
  for (const double value : x) square += value * value;
  const size_t d = std::max<size_t>(x.size(), 1);
  return 1 / std::sqrt(square / static_cast<double>(d) + eps);
}

template <class Args>
Vector WeightOf(const Args& args) {
  Vector w = LoadRange(args.weight, 0, args.x.dim(1));
  if (args.offset != 0)
    for (double& value : w) value += args.offset;
  return w;
}

// Stores y = x·rstd·w of the row that begins at `at`.
void StoreNormed(const TensorView& y, int64_t at, Vector x, double rstd, const Vector& w) {
  for (size_t c = 0; c < x.size(); ++c) x[c] *= rstd * w[c];
  StoreRange(y, at, x);
}

}  // namespace

void Run(const RmsNormForwardArgs& args, Scratch, Context&) {
  const int64_t d = args.x.dim(1);
  const Vector w = WeightOf(args);
  for (int64_t row = 0; row < args.x.dim(0); ++row) {
    if (args.addend) {
      for (int64_t i = row * d; i < (row + 1) * d; ++i)
        Store(args.sum, i, Load(args.x, i) + Load(args.addend, i));
    }
    const Vector x = LoadRange(args.addend ? args.sum : args.x, row * d, d);
    const double rstd = RstdOf(x, args.eps);
    StoreNormed(args.y, row * d, x, rstd, w);
    if (args.rstd) Store(args.rstd, row, rstd);
  }
}

void Run(const RmsNormBackwardArgs& args, Scratch, Context&) {
  const int64_t d = args.x.dim(1);
  const Vector w = WeightOf(args);
  for (int64_t row = 0; row < args.x.dim(0); ++row) {
    const double rstd = Load(args.rstd, row);
    double sum = 0;
    for (int64_t c = 0; c < d; ++c) {
      const int64_t i = row * d + c;
      sum += Load(args.g, i) * w[static_cast<size_t>(c)] * Load(args.x, i);
    }
    const double pull = rstd * rstd * sum / static_cast<double>(d);
    for (int64_t c = 0; c < d; ++c) {
      const int64_t i = row * d + c;
      const double dx =
          rstd * (Load(args.g, i) * w[static_cast<size_t>(c)] - Load(args.x, i) * pull) +
          (args.g_sum ? Load(args.g_sum, i) : 0);
      Store(args.dx, i, dx);
      if (args.d_addend) Store(args.d_addend, i, dx);
    }
    if (!args.y) continue;
    const Vector x = LoadRange(args.x, row * d, d);
    StoreNormed(args.y, row * d, x, RstdOf(x, args.eps), w);
  }
}

template PlannedCall Plan(const RmsNormForwardArgs&, int);
template PlannedCall Plan(const RmsNormBackwardArgs&, int);
}  // namespace lora::reference
