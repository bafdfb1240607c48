// y = f(x) and dx = g·f'(x), where φ and Φ are the density and the distribution function of the
// normal law and σ is the logistic function:
//           f(x)        f'(x)
//   copy    x           1
//   scale   α·x         α
//   square  x²          2x
//   sqrt    √x          1/(2√x)
//   relu    max(x, 0)   [x > 0]
//   gelu    x·Φ(x)      Φ(x) + x·φ(x)
//   silu    x·σ(x)      σ(x)·(1 + x·(1 − σ(x)))
#include <cmath>
#include <cstring>
#include <numbers>

#include "backend/reference/kernels.h"
#include "backend/reference/sigmoid.h"
#include "core/ops/element.h"

namespace lora::reference {
namespace {

double NormalDistribution(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }
double NormalDensity(double x) {
  return std::exp(-0.5 * x * x) * std::numbers::inv_sqrtpi / std::numbers::sqrt2;
}

double Value(UnaryKind kind, double alpha, double x) {
  switch (kind) {
    case UnaryKind::kCopy:
      return x;
    case UnaryKind::kScale:
      return alpha * x;
    case UnaryKind::kSquare:
      return x * x;
    case UnaryKind::kSqrt:
      return std::sqrt(x);
    case UnaryKind::kRelu:
      return x < 0 ? 0 : x;  // NaN stays
    case UnaryKind::kGelu:
      return x * NormalDistribution(x);
    case UnaryKind::kSilu:
      return x * Sigmoid(x);
  }
  return 0;
}

double Derivative(UnaryKind kind, double alpha, double x) {
  switch (kind) {
    case UnaryKind::kCopy:
      return 1;
    case UnaryKind::kScale:
      return alpha;
    case UnaryKind::kSquare:
      return 2 * x;
    case UnaryKind::kSqrt:
      return 0.5 / std::sqrt(x);
    case UnaryKind::kRelu:
      return x > 0 ? 1 : 0;
    case UnaryKind::kGelu:
      return NormalDistribution(x) + x * NormalDensity(x);
    case UnaryKind::kSilu:
      return Sigmoid(x) * (1 + x * (1 - Sigmoid(x)));
  }
  return 0;
}

}  // namespace

void Run(const UnaryArgs& args, Scratch, Context&) {
  if (args.kind == UnaryKind::kCopy && args.x.dtype == args.y.dtype) {  // NaN keeps its bits
    if (args.y.bytes() > 0) std::memmove(args.y.data, args.x.data, args.y.bytes());
    return;
  }
  for (int64_t i = 0; i < args.y.numel(); ++i) {
    Store(args.y, i, Value(args.kind, args.alpha, Load(args.x, i)));
  }
}

void Run(const UnaryBackwardArgs& args, Scratch, Context&) {
  for (int64_t i = 0; i < args.dx.numel(); ++i) {
    Store(args.dx, i, Load(args.g, i) * Derivative(args.kind, args.alpha, Load(args.x, i)));
  }
}

template PlannedCall Plan(const UnaryArgs&, int);
template PlannedCall Plan(const UnaryBackwardArgs&, int);
}  // namespace lora::reference
