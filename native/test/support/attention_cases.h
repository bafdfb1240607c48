// Lists cases of attention, forward and backward, and bounds how far a backend may be off the
// reference in f64. The bounds follow the rounding errors of f32. With u its unit roundoff:
//   a dot product of d terms errs by 4·√d·u·‖x‖‖y‖;
//   a probability errs by the error of its score, as exp(s + δ) = exp(s)·(1 + δ);
//   a sum over n keys errs by 4·√n·u of its absolute terms;
//   a product on tensor cores errs by what rounding.h says, where a sum over keys or rows gets as
//   far as its absolute terms together;
//   the result is rounded once to the dtype of the tensor.
#pragma once

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "core/ops/ops.h"
#include "test/support/tested.h"

namespace lora::test::attention {

struct AttentionCase {
  DType dtype = DType::kF32;
  int64_t batch = 1, queries = 1, q_heads = 1, kv_heads = 1, d = 8, window = 0;
  bool key_begin = false;
  int64_t q_offset = 0;  // keys before the first query; 0 but where they lie in pages
  bool both_directions = false;
  bool sinks = false;

  int64_t keys() const { return q_offset + queries; }
  std::string Name() const {
    std::ostringstream out;
    out << NameOf(dtype) << " batch " << batch << " queries " << queries << " + " << q_offset
        << " heads " << q_heads << '/' << kv_heads << " d " << d << " window " << window
        << (key_begin ? " key_begin" : "") << (both_directions ? " both directions" : "")
        << (sinks ? " sinks" : "");
    return out.str();
  }
};

// Returns sizes around the tiles of a GPU, with groups, windows and documents.
inline std::vector<AttentionCase> TileCases(DType dtype) {
  return {
      {dtype, 1, 1, 1, 1, 8},
      {dtype, 2, 3, 4, 2, 12},
      {dtype, 1, 7, 9, 3, 16, 5},
      {dtype, 1, 31, 2, 1, 64, 0, true},
      {dtype, 1, 32, 2, 2, 64, 12},
      {dtype, 2, 33, 3, 1, 33},
      {dtype, 1, 64, 1, 1, 64},
      {dtype, 1, 65, 2, 1, 24, 40},
      {dtype, 1, 97, 1, 1, 63, 0, true},
      {dtype, 1, 130, 1, 1, 7, 30},
      {dtype, 1, 130, 1, 1, 7, 70},
      {dtype, 1, 22, 3, 1, 65},
      {dtype, 1, 66, 1, 1, 80, 1},
      {dtype, 1, 65, 1, 1, 128, 0, true},
      {dtype, 1, 18, 2, 2, 129},
      {dtype, 1, 33, 1, 1, 255, 20},
      {dtype, 1, 35, 2, 1, 256},
      {dtype, 2, 4, 4, 2, 12, 0, true, 0, true},
      {dtype, 1, 97, 2, 1, 64, 0, false, 0, true},
      {dtype, 1, 140, 1, 1, 24, 9, true, 0, true},
      {dtype, 1, 67, 4, 2, 128, 40, false, 0, true},
      {dtype, 1, 40, 1, 1, 256, 0, true, 0, true},
      {dtype, 2, 3, 4, 2, 12, 0, false, 0, false, true},
      {dtype, 1, 33, 6, 2, 64, 12, false, 0, false, true},
      {dtype, 1, 65, 1, 1, 128, 0, true, 0, false, true},
      {dtype, 1, 20, 2, 1, 255, 0, false, 0, false, true},
  };
}

// Every length meets every head dim; groups, windows, documents and batches go round.
inline std::vector<AttentionCase> GridCases() {
  struct Heads {
    int64_t q, kv;
  };
  const std::vector<Heads> heads = {{1, 1}, {4, 2}, {9, 3}};
  const std::vector<int64_t> windows = {0, 1, 5, 12};
  std::vector<AttentionCase> cases;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    size_t n = dtype == DType::kF32 ? 0 : 1;
    for (const int64_t queries : {1, 3, 7, 63, 64, 65, 130}) {
      for (const int64_t d : {8, 12, 16, 24, 64, 80, 128}) {
        AttentionCase c;
        c.dtype = dtype;
        c.queries = queries;
        c.d = d;
        c.q_heads = heads[n % heads.size()].q;
        if (queries > 65 && c.q_heads == 9) c.q_heads = 3;  // the reference is slow
        c.kv_heads = heads[n % heads.size()].kv;
        c.window = n % 5 == 4 ? 0 : windows[n % 5];
        c.key_begin = n % 4 == 3;
        c.batch = queries < 60 ? 2 : 1;
        cases.push_back(c);
        ++n;
      }
    }
    for (const int64_t window : {0, 1, 50}) {
      cases.push_back({dtype, 2, 70, 4, 2, 20, window, true, 0, true});
      cases.push_back({dtype, 1, 300, 8, 1, 64, window, false, 0, true});
    }
    // So many rows that a task of the CPU has several tiles of them.
    cases.push_back({dtype, 1, 300, 8, 1, 64, 0, true});
    cases.push_back({dtype, 1, 300, 8, 1, 20, 70});
    cases.push_back({dtype, 1, 150, 8, 2, 64, 70, true, 0, false, true});
    for (const int64_t d : {1, 7, 33, 255, 256}) {
      AttentionCase c;
      c.dtype = dtype;
      c.queries = 20;
      c.q_heads = 2;
      c.kv_heads = 2;
      c.d = d;
      cases.push_back(c);
    }
  }
  return cases;
}

// Returns the cases of the backend; the emulator is too slow for the grid.
inline std::vector<AttentionCase> AttentionCases() {
  std::vector<AttentionCase> cases;
  if (!Tested().emulated) cases = GridCases();
  for (const DType dtype : Activations())
    for (const AttentionCase& c : TileCases(dtype)) cases.push_back(c);
  return cases;
}

struct Operands {
  Tensor q, k, v, g, key_begin, key_end, sinks;
  float scale;

  explicit Operands(const AttentionCase& c) : scale(1 / std::sqrt(static_cast<float>(c.d))) {
    const Shape rows{c.batch, c.queries, c.q_heads, c.d}, keys{c.batch, c.keys(), c.kv_heads, c.d};
    q = Normal(c.dtype, rows, 1);
    k = Normal(c.dtype, keys, 2);
    v = Normal(c.dtype, keys, 3);
    g = Normal(c.dtype, rows, 4);
    // Some outweigh all keys, and some no key.
    if (c.sinks) sinks = Normal(DType::kF32, {c.q_heads}, 5, 4);
    // With key_begin there are two documents in a row; the second begins at a third of the keys.
    // The end of the last one may lie behind the keys.
    const int64_t cut = c.key_begin ? c.queries / 3 : 0;
    const Shape each{c.batch, c.queries};
    if (c.key_begin) key_begin = Tensor(DType::kI32, each);
    if (c.both_directions) key_end = Tensor(DType::kI32, each);
    for (int64_t i = 0; i < c.batch * c.queries; ++i) {
      const bool second = i % c.queries >= cut;
      if (key_begin) key_begin.Set(i, second ? static_cast<double>(cut) : 0);
      if (key_end) key_end.Set(i, static_cast<double>(second ? c.queries + i % 2 : cut));
    }
  }
};

inline AttentionForwardArgs ForwardArgs(const AttentionCase& c, const Operands& o, const Tensor& y,
                                        const Tensor& lse) {
  AttentionForwardArgs args;
  args.q = o.q;
  args.k = o.k;
  args.v = o.v;
  args.key_begin = o.key_begin;
  args.key_end = o.key_end;
  args.window = c.window;
  args.scale = o.scale;
  args.y = y;
  args.lse = lse;
  args.sinks = o.sinks;
  return args;
}

inline Operands Widened(const Operands& o) {
  Operands wide = o;
  wide.q = o.q.As(DType::kF64);
  wide.k = o.k.As(DType::kF64);
  wide.v = o.v.As(DType::kF64);
  wide.g = o.g.As(DType::kF64);
  return wide;
}

// Holds what one (batch, query, head) sees, with the error bound of each score and the
// probabilities.
struct Row {
  int64_t q = 0, lse = 0;               // offsets
  std::vector<int64_t> keys;            // offsets of the visible keys
  std::vector<double> score, error, p;  // error: of the score as exp sees it
  double largest = 0, worst = 0;
  double sum_error = 0, product_error = 0;  // relative: of a sum of p, and of p·v
};

inline bool OnTensorCores(const AttentionCase& c) {
  return c.dtype != DType::kF32 && Tested().tensor_cores;
}
// Of a product of two rows of d, as a part of their norms.
inline double DotError(const AttentionCase& c) {
  return OnTensorCores(c) ? TensorCoreSumError(c.d) : 4 * std::sqrt(static_cast<double>(c.d)) * kU;
}

template <class VisitRow>
void EachRow(const AttentionCase& c, const Operands& o, const VisitRow& visit) {
  const auto q = o.q.Values(), k = o.k.Values();
  for (int64_t b = 0; b < c.batch; ++b)
    for (int64_t i = 0; i < c.queries; ++i)
      for (int64_t h = 0; h < c.q_heads; ++h) {
        Row row;
        row.q = ((b * c.queries + i) * c.q_heads + h) * c.d;
        row.lse = (b * c.q_heads + h) * c.queries + i;
        const int64_t position = c.q_offset + i;
        int64_t first =
            o.key_begin ? static_cast<int64_t>(o.key_begin.at(b * c.queries + i)) : int64_t{0};
        if (c.window > 0) first = std::max(first, position - c.window + 1);
        int64_t last = position;
        if (o.key_end) {
          last = std::min(static_cast<int64_t>(o.key_end.at(b * c.queries + i)), c.keys()) - 1;
          if (c.window > 0) last = std::min(last, position + c.window - 1);
        }
        const double sink = o.sinks ? o.sinks.at(h) : -std::numeric_limits<double>::infinity();
        row.largest = sink;
        for (int64_t j = first; j <= last; ++j) {
          const int64_t key =
              ((b * c.keys() + j) * c.kv_heads + h / (c.q_heads / c.kv_heads)) * c.d;
          double dot = 0, qq = 0, kk = 0;
          for (int64_t n = 0; n < c.d; ++n) {
            const double x = q[static_cast<size_t>(row.q + n)], y = k[static_cast<size_t>(key + n)];
            dot += x * y;
            qq += x * x;
            kk += y * y;
          }
          const double s = o.scale * dot;
          row.keys.push_back(key);
          row.score.push_back(s);
          row.error.push_back(DotError(c) * o.scale * std::sqrt(qq * kk) +
                              kU * (2 * std::fabs(s) + 4));
          row.largest = std::max(row.largest, s);
        }
        double sum = o.sinks ? std::exp(sink - row.largest) : 0;
        if (o.sinks) row.worst = kU * (2 * std::fabs(sink) + 4 + row.largest - sink);
        for (const double s : row.score) sum += std::exp(s - row.largest);
        for (size_t j = 0; j < row.keys.size(); ++j) {
          row.p.push_back(std::exp(row.score[j] - row.largest) / sum);
          row.error[j] += kU * (row.largest - row.score[j]);
          row.worst = std::max(row.worst, row.error[j]);
        }
        const double n = static_cast<double>(row.keys.size());
        row.sum_error = kU * (4 * std::sqrt(n) + 3 * (n / 64 + 1));
        row.product_error = row.sum_error;
        if (OnTensorCores(c))
          row.product_error = TensorCoreError(std::ssize(row.keys)) + kU * 3 * (n / 64 + 1);
        visit(row);
      }
}

// Where 16-bit operands are multiplied, p and ds are rounded to them, by a part `weights`.
struct Rounding {
  double weights = 0;
};

// Returns a function that gives make(Rounding) of the path that runs when it is called; each is
// made once.
template <class Make>
auto OfPath(const AttentionCase& c, Make make) {
  return [c, make, made = std::map<double, decltype(make(Rounding{}))>()]() mutable -> const auto& {
    const bool rounds = c.dtype != DType::kF32 && MultipliesHalves(c.d);
    const Rounding rounding{rounds ? 1.01 * UnitRoundoff(c.dtype) : 0};
    const auto at = made.find(rounding.weights);
    return at != made.end() ? at->second
                            : made.emplace(rounding.weights, make(rounding)).first->second;
  };
}

// lse may be absent; then it has no bounds.
struct ForwardBounds {
  std::vector<double> y, lse;
};
inline ForwardBounds BoundsOf(const AttentionCase& c, const Operands& o, const Tensor& y,
                              const Tensor& lse, const Rounding& rounding = {}) {
  ForwardBounds bounds;
  bounds.y.resize(static_cast<size_t>(y.numel()));
  if (lse) bounds.lse.resize(static_cast<size_t>(lse.numel()));
  const auto v = o.v.Values();
  EachRow(c, o, [&](const Row& row) {
    for (int64_t n = 0; n < c.d; ++n) {
      double bound = 0;
      for (size_t j = 0; j < row.keys.size(); ++j) {
        bound += row.p[j] * std::fabs(v[static_cast<size_t>(row.keys[j] + n)]) *
                 (row.error[j] + row.worst + row.sum_error + row.product_error + rounding.weights);
      }
      bounds.y[static_cast<size_t>(row.q + n)] =
          bound + std::fabs(y.at(row.q + n)) * (UnitRoundoff(c.dtype) + 2 * kU);
    }
    if (!lse) return;
    bounds.lse[static_cast<size_t>(row.lse)] =
        row.worst + row.sum_error + 2 * kU * (std::fabs(lse.at(row.lse)) + std::fabs(row.largest));
  });
  return bounds;
}

struct Gradients {
  Tensor dq, dk, dv;
  Gradients(DType dtype, const Operands& o)
      : dq(dtype, o.q.shape()), dk(dtype, o.k.shape()), dv(dtype, o.v.shape()) {}
};
// Moves them, so that the guards behind them come along.
inline std::vector<Tensor> ListOf(Gradients&& d) {
  std::vector<Tensor> list;
  list.push_back(std::move(d.dq));
  list.push_back(std::move(d.dk));
  list.push_back(std::move(d.dv));
  return list;
}
struct GradientBounds {
  std::vector<double> dq, dk, dv;
};

inline AttentionBackwardArgs BackwardArgs(const AttentionCase& c, const Operands& o,
                                          const Tensor& y, const Tensor& lse, const Gradients& d) {
  AttentionBackwardArgs args;
  args.q = o.q;
  args.k = o.k;
  args.v = o.v;
  args.key_begin = o.key_begin;
  args.key_end = o.key_end;
  args.y = y;
  args.lse = lse;
  args.g = o.g;
  args.window = c.window;
  args.scale = o.scale;
  args.dq = d.dq;
  args.dk = d.dk;
  args.dv = d.dv;
  return args;
}

// Both sides are given the same y and lse, so only what backward itself rounds counts.
inline GradientBounds BoundsOf(const AttentionCase& c, const Operands& o, const Tensor& y,
                               const Tensor& lse, const Gradients& expected,
                               const Rounding& rounding = {}) {
  GradientBounds bounds;
  bounds.dq.resize(static_cast<size_t>(o.q.numel()));
  bounds.dk.resize(static_cast<size_t>(o.k.numel()));
  bounds.dv.resize(static_cast<size_t>(o.v.numel()));
  const auto q = o.q.Values(), k = o.k.Values(), v = o.v.Values(), g = o.g.Values(),
             yy = y.Values();
  const double dot_error = DotError(c);
  const double sum_error =
      4 * kU + (OnTensorCores(c) ? TensorCoreError(std::max(c.queries * c.q_heads, c.keys()))
                                 : kU * 4 * std::sqrt(static_cast<double>(c.queries * c.q_heads)));
  EachRow(c, o, [&](const Row& row) {
    double gg = 0, y_square = 0, inner = 0;
    for (int64_t n = 0; n < c.d; ++n) {
      const size_t at = static_cast<size_t>(row.q + n);
      gg += g[at] * g[at];
      y_square += yy[at] * yy[at];
      inner += g[at] * yy[at];
    }
    for (size_t j = 0; j < row.keys.size(); ++j) {
      double dp = 0, vv = 0;
      for (int64_t n = 0; n < c.d; ++n) {
        const size_t at = static_cast<size_t>(row.keys[j] + n);
        dp += g[static_cast<size_t>(row.q + n)] * v[at];
        vv += v[at] * v[at];
      }
      const double p_error = row.error[j] + 2 * kU * std::fabs(lse.at(row.lse));
      const double ds = row.p[j] * std::fabs(dp - inner);
      const double ds_error =
          ds * (p_error + sum_error + rounding.weights) +
          row.p[j] * (dot_error * std::sqrt(gg) * (std::sqrt(vv) + std::sqrt(y_square)) +
                      2 * kU * (std::fabs(dp) + std::fabs(inner)));
      for (int64_t n = 0; n < c.d; ++n) {
        const size_t query = static_cast<size_t>(row.q + n);
        const size_t key = static_cast<size_t>(row.keys[j] + n);
        bounds.dq[query] += o.scale * ds_error * std::fabs(k[key]);
        bounds.dk[key] += o.scale * ds_error * std::fabs(q[query]);
        bounds.dv[key] += row.p[j] * std::fabs(g[query]) * (p_error + sum_error + rounding.weights);
      }
    }
  });
  const auto round = [&](std::vector<double>& bound, const Tensor& exact) {
    for (size_t i = 0; i < bound.size(); ++i) {
      bound[i] += std::fabs(exact.at(static_cast<int64_t>(i))) * (UnitRoundoff(c.dtype) + 2 * kU);
    }
  };
  round(bounds.dq, expected.dq);
  round(bounds.dk, expected.dk);
  round(bounds.dv, expected.dv);
  return bounds;
}

}  // namespace lora::test::attention
