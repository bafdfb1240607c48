// With x [m, in], W [out, in], up [out, r], down [r, in], s = scale, and drop() the dropout of the
// LoRA path (mask and scale; the identity where dropout is off):
//   h  = down·drop(x)
//   y  = factor ⊙ (W·x + s·up·h) + bias           y takes h before h is rounded
//   u  = upᵀ·g
//   dx = Σ over branches (Wᵀ·g + drop(s·downᵀ·u))
//   d_up = s·gᵀ·h
//   d_down = s·uᵀ·drop(x)
// Where a branch takes int8 activations, W·x is Σ of the rounded x times the values of W in f32.
#include <algorithm>
#include <vector>

#include "backend/reference/kernels.h"
#include "backend/reference/rows.h"

namespace lora::reference {
namespace {

// Returns branch i with the change that a row has in the table of the call.
LoraBranch BranchOfRow(const LoraLinearForwardArgs& args, size_t i, int64_t row) {
  LoraBranch branch = args.branches[i];
  if (!args.table) return branch;
  const DeltaEntry& entry = EntryOf(args, i, row);
  if (entry.rank == 0) return branch;
  const auto view = [](const void* data, DType dtype, const Shape& shape) {
    return TensorView(const_cast<void*>(data), dtype, shape);
  };
  // A packed up is row-major too (pack.cc).
  branch.up = view(entry.up, args.table.dtype, {branch.weight.rows, entry.rank});
  branch.down = view(entry.down, args.table.dtype, {entry.rank, branch.weight.cols});
  branch.scale = entry.scale;
  if (entry.factor) branch.factor = view(entry.factor, DType::kF32, {branch.weight.rows});
  return branch;
}

bool RoundsActivations(const LoraBranch& branch) {
  return branch.activations == Activations::kInt8 && HasWholeCodes(branch.weight.format);
}

// Returns a row of x as its groups of whole numbers have it.
Vector RoundedRow(const Vector& row) {
  const std::vector<float> values(row.begin(), row.end());
  Vector rounded;
  for (size_t at = 0; at < values.size(); at += kActivationGroup) {
    int8_t codes[kActivationGroup];
    const size_t count = std::min(kActivationGroup, values.size() - at);
    const double scale = RoundActivations(values.data() + at, count, codes);
    for (size_t i = 0; i < count; ++i) rounded.push_back(scale * codes[i]);
  }
  return rounded;
}

// Returns the values of W that a branch multiplies.
Vector WeightOf(const LoraBranch& branch) {
  PackedView weight = branch.weight;
  if (RoundsActivations(branch)) weight.dtype = DType::kF32;
  return LoadAll(weight);
}

void ForwardRow(const TensorView& x, int64_t row, const LoraBranch& branch, const Vector& weight,
                const TensorView& y, const TensorView& h) {
  const int64_t in = x.dim(1), out = branch.weight.rows, rank = branch.up ? branch.up.dim(1) : 0;
  const Vector exact = LoadRange(x, row * in, in);
  const Vector x_row = RoundsActivations(branch) ? RoundedRow(exact) : exact;
  Vector h_row;
  if (branch.up) {
    const Vector dropped = DroppedRow(x, row, branch.dropout);
    for (int64_t r = 0; r < rank; ++r) h_row.push_back(Dot(dropped, branch.down, r * in));
    if (h) StoreRange(h, row * rank, h_row);
  }
  for (int64_t o = 0; o < out; ++o) {
    double sum = Dot(x_row, weight, o * in);
    if (branch.up) sum += branch.scale * Dot(h_row, branch.up, o * rank);
    if (branch.factor) sum *= Load(branch.factor, o);
    if (branch.bias) sum += Load(branch.bias, o);
    Store(y, row * out + o, sum);
  }
}

// Returns u = upᵀ·g of one row, a vector of rank elements.
Vector UpTransposed(const Vector& g_row, const TensorView& a) {
  const int64_t rank = a.dim(1);
  Vector u;
  for (int64_t r = 0; r < rank; ++r) u.push_back(Dot(g_row, a, r, rank));
  return u;
}

// Adds one branch's part of the input gradient to dx_row.
void AddInputGradient(const LoraBranch& branch, const Vector& weight, const TensorView& g,
                      int64_t row, Vector& dx_row) {
  const int64_t in = branch.weight.cols, out = branch.weight.rows;
  const Vector g_row = LoadRange(g, row * out, out);
  // Row by row, as W lies in memory.
  Vector through(dx_row.size());
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t c = 0; c < in; ++c)
      through[static_cast<size_t>(c)] += g_row[static_cast<size_t>(o)] * Load(weight, o * in + c);
  }
  for (size_t c = 0; c < through.size(); ++c) dx_row[c] += through[c];
  if (!branch.up) return;
  const Vector u = UpTransposed(g_row, branch.up);
  Vector low(dx_row.size());
  for (int64_t c = 0; c < in; ++c) {
    low[static_cast<size_t>(c)] = branch.scale * Dot(u, branch.down, c, in);
  }
  Drop(branch.dropout, row, low);
  for (size_t c = 0; c < low.size(); ++c) dx_row[c] += low[c];
}

void KeepU(const LoraBranch& branch, const TensorView& g, const TensorView& u) {
  const int64_t out = branch.weight.rows, rank = branch.up.dim(1);
  for (int64_t i = 0; i < g.dim(0); ++i)
    StoreRange(u, i * rank, UpTransposed(LoadRange(g, i * out, out), branch.up));
}

void UpGradient(const LoraBranch& branch, const TensorView& g, const TensorView& h,
                const TensorView& d_up) {
  const int64_t m = g.dim(0), out = d_up.dim(0), rank = d_up.dim(1);
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t r = 0; r < rank; ++r) {
      double sum = 0;
      for (int64_t i = 0; i < m; ++i) sum += Load(g, i * out + o) * Load(h, i * rank + r);
      Store(d_up, o * rank + r, branch.scale * sum);
    }
  }
}

// Computes u once more where the caller has kept it, because that one is rounded to f32.
void DownGradient(const LoraBranch& branch, const TensorView& x, const TensorView& g,
                  const TensorView& d_down) {
  const int64_t m = g.dim(0), out = branch.weight.rows;
  const size_t rank = static_cast<size_t>(d_down.dim(0)), in = static_cast<size_t>(d_down.dim(1));
  Vector sums(rank * in, 0.0);
  for (int64_t i = 0; i < m; ++i) {
    const Vector u = UpTransposed(LoadRange(g, i * out, out), branch.up);
    const Vector dropped = DroppedRow(x, i, branch.dropout);
    for (size_t r = 0; r < rank; ++r) {
      for (size_t c = 0; c < in; ++c) sums[r * in + c] += u[r] * dropped[c];
    }
  }
  for (double& sum : sums) sum *= branch.scale;
  StoreRange(d_down, 0, sums);
}

}  // namespace

void Run(const LoraLinearForwardArgs& args, Scratch, Context&) {
  for (size_t i = 0; i < args.branches.size(); ++i) {
    const Vector weight = WeightOf(args.branches[i]);
    for (int64_t row = 0; row < args.x.dim(0); ++row) {
      ForwardRow(args.x, row, BranchOfRow(args, i, row), weight, args.y[i], args.h[i]);
    }
  }
}

void Run(const LoraLinearBackwardArgs& args, Scratch, Context&) {
  if (args.dx) {
    const int64_t m = args.dx.dim(0), in = args.dx.dim(1);
    std::vector<Vector> weights;
    for (const LoraBranch& branch : args.branches) weights.push_back(LoadAll(branch.weight));
    for (int64_t row = 0; row < m; ++row) {
      Vector dx_row(static_cast<size_t>(in), 0.0);
      for (size_t i = 0; i < args.branches.size(); ++i) {
        AddInputGradient(args.branches[i], weights[i], args.g[i], row, dx_row);
      }
      StoreRange(args.dx, row * in, dx_row);
    }
  }
  for (size_t i = 0; i < args.branches.size(); ++i) {
    if (IsAt(args.kept_u, i)) KeepU(args.branches[i], args.g[i], args.kept_u[i]);
    if (args.d_up[i]) UpGradient(args.branches[i], args.g[i], args.h[i], args.d_up[i]);
    if (args.d_down[i]) DownGradient(args.branches[i], args.x, args.g[i], args.d_down[i]);
  }
}

template PlannedCall Plan(const LoraLinearForwardArgs&, int);
template PlannedCall Plan(const LoraLinearBackwardArgs&, int);
}  // namespace lora::reference
