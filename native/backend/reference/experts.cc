// By their definitions:
//   route:         the k largest logits, and their softmax
//   spread_rows:   y[j] = w[a]·x[a / k], a = order[j]
//   combine_rows:  y[t] = Σ over c of w[t·k + c]·x[places[t·k + c]]
//   row_dots:      d[a] = g[a / k]·x[places[a]]
//   routed_linear: lora_linear of the rows of each expert
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "backend/reference/kernels.h"
#include "backend/reference/rows.h"
#include "core/ops/expert_calls.h"

namespace lora::reference {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Returns exp(x − largest) of each, and their sum.
struct Exponentials {
  Vector values;
  double sum = 0;
  explicit Exponentials(const Vector& logits) {
    double largest = -std::numeric_limits<double>::infinity();
    for (const double x : logits) largest = std::max(largest, x);
    for (const double x : logits) {
      values.push_back(std::exp(x - largest));
      sum += values.back();
    }
  }
};

Vector WeightsOf(const Vector& logits, const std::vector<int64_t>& experts, bool among_chosen) {
  Vector chosen;
  for (const int64_t e : experts) chosen.push_back(logits[static_cast<size_t>(e)]);
  if (among_chosen) {
    const Exponentials exps(chosen);
    for (size_t i = 0; i < chosen.size(); ++i) chosen[i] = exps.values[i] / exps.sum;
  } else {
    const Exponentials exps(logits);
    for (size_t i = 0; i < chosen.size(); ++i)
      chosen[i] = exps.values[static_cast<size_t>(experts[i])] / exps.sum;
  }
  return chosen;
}

std::vector<int64_t> LargestOf(const Vector& logits, int64_t k) {
  std::vector<int64_t> experts;
  for (size_t i = 0; i < logits.size(); ++i) experts.push_back(static_cast<int64_t>(i));
  const auto rank = [&](int64_t e) {
    const double x = logits[static_cast<size_t>(e)];
    return std::isnan(x) ? -std::numeric_limits<double>::infinity() : x;
  };
  std::ranges::stable_sort(experts, [&](int64_t a, int64_t b) {
    if (rank(a) != rank(b)) return rank(a) > rank(b);
    const bool a_nan = std::isnan(logits[static_cast<size_t>(a)]);
    const bool b_nan = std::isnan(logits[static_cast<size_t>(b)]);
    return !a_nan && b_nan;
  });
  experts.resize(static_cast<size_t>(k));
  return experts;
}

bool IsInside(int64_t i, int64_t count) { return i >= 0 && i < count; }

PlannedCall PlanOfReference(const LoraLinearForwardArgs& call) {
  return ReferenceBackend().op<LoraLinearForwardArgs>().plan(call, 1);
}
PlannedCall PlanOfReference(const LoraLinearBackwardArgs& call) {
  return ReferenceBackend().op<LoraLinearBackwardArgs>().plan(call, 1);
}
PlannedCall PlanOfReference(const MatmulArgs& call) {
  return ReferenceBackend().op<MatmulArgs>().plan(call, 1);
}

template <class Args>
PlannedCall PlanExperts(const Args& args) {
  const auto plan = [](const auto& call) { return PlanOfReference(call); };
  return {ScratchOfExperts(args, plan), [args, plan](Scratch scratch, Context& context) {
            RunExperts(args, args.offsets.template as<int32_t>(), args.offsets.dim(0) - 1, plan,
                       scratch, context);
          }};
}

}  // namespace

void Run(const RouteForwardArgs& args, Scratch, Context&) {
  const int64_t n = args.tokens(), count = args.count(), k = args.chosen;
  std::vector<std::vector<int32_t>> rows(static_cast<size_t>(count));
  for (int64_t t = 0; t < n; ++t) {
    const Vector logits = LoadRange(args.logits, t * count, count);
    const std::vector<int64_t> experts = LargestOf(logits, k);
    StoreRange(args.weights, t * k, WeightsOf(logits, experts, args.among_chosen));
    for (int64_t c = 0; c < k; ++c) {
      const auto e = static_cast<size_t>(experts[static_cast<size_t>(c)]);
      args.experts.as<int32_t>()[t * k + c] = static_cast<int32_t>(e);
      rows[e].push_back(static_cast<int32_t>(t * k + c));
    }
  }
  int32_t row = 0;
  args.offsets.as<int32_t>()[0] = 0;
  for (size_t e = 0; e < rows.size(); ++e) {
    for (const int32_t a : rows[e]) {
      args.order.as<int32_t>()[row] = a;
      args.places.as<int32_t>()[a] = row++;
    }
    args.offsets.as<int32_t>()[e + 1] = row;
  }
}

void Run(const RouteBackwardArgs& args, Scratch, Context&) {
  const int64_t n = args.logits.dim(0), count = args.logits.dim(1), k = args.experts.dim(1);
  for (int64_t t = 0; t < n; ++t) {
    const Vector logits = LoadRange(args.logits, t * count, count);
    std::vector<int64_t> experts;
    Vector g;
    for (int64_t c = 0; c < k; ++c) {
      const int64_t e = args.experts.as<int32_t>()[t * k + c];
      if (!IsInside(e, count)) continue;
      experts.push_back(e);
      g.push_back(Load(args.g, t * k + c));
    }
    const Vector weights = WeightsOf(logits, experts, args.among_chosen);
    double sum = 0;
    for (size_t i = 0; i < g.size(); ++i) sum += weights[i] * g[i];
    Vector d(static_cast<size_t>(count), 0.0);
    if (!args.among_chosen) {
      const Exponentials exps(logits);
      for (size_t e = 0; e < d.size(); ++e) d[e] = -exps.values[e] / exps.sum * sum;
    }
    for (size_t i = 0; i < g.size(); ++i)
      d[static_cast<size_t>(experts[i])] = weights[i] * (g[i] - sum);
    StoreRange(args.d_logits, t * count, d);
  }
}

void Run(const SpreadRowsArgs& args, Scratch, Context&) {
  const int64_t m = args.order.dim(0), d = args.x.dim(1);
  for (int64_t j = 0; j < m; ++j) {
    const int64_t a = args.order.as<int32_t>()[j], k = m / args.x.dim(0);
    Vector row(static_cast<size_t>(d), kNaN);
    if (IsInside(a, m)) {
      row = LoadRange(args.x, a / k * d, d);
      if (args.weights)
        for (double& x : row) x *= Load(args.weights, a);
    }
    StoreRange(args.y, j * d, row);
  }
}

void Run(const CombineRowsArgs& args, Scratch, Context&) {
  const int64_t m = args.x.dim(0), d = args.x.dim(1), k = args.chosen;
  for (int64_t t = 0; t < m / k; ++t) {
    Vector sum(static_cast<size_t>(d), 0.0);
    for (int64_t a = t * k; a < (t + 1) * k; ++a) {
      const int64_t place = args.places.as<int32_t>()[a];
      const double weight = args.weights ? Load(args.weights, a) : 1;
      const Vector row = IsInside(place, m) ? LoadRange(args.x, place * d, d)
                                            : Vector(static_cast<size_t>(d), kNaN);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += weight * row[i];
    }
    StoreRange(args.y, t * d, sum);
  }
}

void Run(const RowDotsArgs& args, Scratch, Context&) {
  const int64_t m = args.x.dim(0), d = args.x.dim(1);
  for (int64_t a = 0; a < m; ++a) {
    const int64_t place = args.places.as<int32_t>()[a], k = m / args.g.dim(0);
    const double dot =
        IsInside(place, m) ? Dot(LoadRange(args.g, a / k * d, d), args.x, place * d) : kNaN;
    Store(args.dots, a, dot);
  }
}

PlannedCall PlanCall(const RoutedLinearForwardArgs& args, int) { return PlanExperts(args); }
PlannedCall PlanCall(const RoutedLinearBackwardArgs& args, int) { return PlanExperts(args); }
PlannedCall PlanCall(const RoutedWeightsArgs& args, int) { return PlanExperts(args); }

template PlannedCall Plan(const RouteForwardArgs&, int);
template PlannedCall Plan(const RouteBackwardArgs&, int);
template PlannedCall Plan(const SpreadRowsArgs&, int);
template PlannedCall Plan(const CombineRowsArgs&, int);
template PlannedCall Plan(const RowDotsArgs&, int);
template PlannedCall Plan(const RoutedLinearForwardArgs&, int);
template PlannedCall Plan(const RoutedLinearBackwardArgs&, int);
template PlannedCall Plan(const RoutedWeightsArgs&, int);
}  // namespace lora::reference
