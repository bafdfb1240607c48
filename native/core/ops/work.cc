#include "core/ops/work.h"

#include <algorithm>

namespace lora {
namespace {

// Of a product of [m, k] and [k, n].
double Product(int64_t m, int64_t k, int64_t n) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(k) * static_cast<double>(n);
}

// The pairs of a query and a key that it sees, of one head of one sequence. In both directions
// every pair but that of a token with itself counts twice.
double Pairs(int64_t queries, int64_t window, bool both_directions) {
  double pairs = 0;
  for (int64_t keys = 1; keys <= queries; ++keys) {
    pairs += static_cast<double>(window > 0 ? std::min(keys, window) : keys);
  }
  return both_directions ? 2 * pairs - static_cast<double>(queries) : pairs;
}

// Of `products` products that multiply every pair by a vector of the head's width.
double AttentionFlops(const TensorView& q, double pairs, int products) {
  const auto heads = static_cast<double>(q.dim(0) * q.dim(2));
  return 2.0 * products * heads * pairs * static_cast<double>(q.dim(3));
}

}  // namespace

double FlopsOf(const LoraLinearForwardArgs& args) {
  double flops = 0;
  const int64_t m = args.x.dim(0);
  for (const LoraBranch& branch : args.branches) {
    const int64_t k = branch.weight.cols, n = branch.weight.rows;
    flops += Product(m, k, n);
    if (branch.up) flops += Product(m, branch.up.dim(1), k + n);
  }
  return flops;
}

double FlopsOf(const LoraLinearBackwardArgs& args) {
  double flops = 0;
  for (size_t i = 0; i < args.branches.size(); ++i) {
    const LoraBranch& branch = args.branches[i];
    const int64_t m = args.g[i].dim(0), k = branch.weight.cols, n = branch.weight.rows;
    if (args.dx) flops += Product(m, n, k);
    if (!branch.up) continue;
    const int64_t r = branch.up.dim(1);
    const bool down = IsAt(args.d_down, i), computes_u = args.dx || down || IsAt(args.kept_u, i);
    if (computes_u && !IsAt(args.u, i)) flops += Product(m, n, r);
    if (args.dx) flops += Product(m, r, k);
    if (IsAt(args.d_up, i)) flops += Product(n, m, r);
    if (down) flops += Product(r, m, k);
  }
  return flops;
}

double FlopsOf(const RoutedLinearForwardArgs& args) {
  if (args.experts.empty()) return 0;
  const int64_t m = args.x.dim(0), k = args.experts[0].weight.cols, n = args.experts[0].weight.rows;
  return Product(m, k, n) + (args.up ? Product(m, args.up.dim(2), k + n) : 0);
}

double FlopsOf(const RoutedLinearBackwardArgs& args) {
  if (args.experts.empty()) return 0;
  const int64_t m = args.g.dim(0), k = args.experts[0].weight.cols, n = args.experts[0].weight.rows;
  double flops = args.dx ? Product(m, n, k) : 0;
  if (!args.up) return flops;
  const int64_t r = args.up.dim(2);
  if (args.dx || args.d_down) flops += Product(m, n, r);
  if (args.dx) flops += Product(m, r, k);
  if (args.d_up) flops += Product(n, m, r);
  if (args.d_down) flops += Product(r, m, k);
  return flops;
}

double FlopsOf(const RoutedWeightsArgs& args) {
  return Product(args.g.dim(1), args.x.dim(0), args.x.dim(1));
}

double FlopsOf(const LinearCrossEntropyArgs& args) {
  const double product = Product(args.hidden.dim(0), args.weight.cols, args.weight.rows);
  return args.d_hidden ? 2 * product : product;
}

double FlopsOf(const AttentionForwardArgs& args) {
  return AttentionFlops(args.q, Pairs(args.q.dim(1), args.window, bool{args.key_end}), 2);
}

// The scores again, the gradient of the weights, and those of q, k and v.
double FlopsOf(const AttentionBackwardArgs& args) {
  return AttentionFlops(args.q, Pairs(args.q.dim(1), args.window, bool{args.key_end}), 5);
}

double FlopsOf(const MatmulArgs& args) {
  const int rank = args.a.shape.rank();
  return Product(args.y.numel(), args.a.dim(args.trans_a ? rank - 2 : rank - 1), 1);
}

void WorkTally::operator()(const TensorView& view, Access access) {
  if (!view) return;
  const bool twice = access == Access::kInOut || access == Access::kUpdate;
  bytes_ += static_cast<double>(view.bytes()) * (twice ? 2 : 1);
  ++tensors_;
  elements_ += view.numel();
  if (!first_.empty()) return;
  first_ = NameOf(view.dtype);
  for (const int64_t& dim : view.shape)
    first_ += (&dim == view.shape.begin() ? ' ' : 'x') + std::to_string(dim);
}

void WorkTally::operator()(const PackedView& view) {
  if (!view) return;
  bytes_ += static_cast<double>(ValueBytes(view.format, view.rows, view.cols));
  rows_ += (rows_.empty() ? " -> " : "+") + std::to_string(view.rows);
}

Work WorkTally::Finish(double flops) const {
  constexpr int64_t kList = 12;  // no op has as many operands but those of a list: an optimizer's
  if (rows_.empty() && tensors_ > kList)
    return {flops, bytes_,
            std::to_string(tensors_) + " tensors, " + std::to_string(elements_) + " elements"};
  return {flops, bytes_, first_ + rows_};
}

}  // namespace lora
