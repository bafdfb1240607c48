// attention on the CPU against the reference in f64, on every instruction set that is usable here.
// The bounds follow the rounding errors of f32: with u its unit roundoff, a dot product of d terms
// errs by 4·√d·u·‖x‖‖y‖, a probability by the error of its score (as exp(s + δ) = exp(s)·(1 + δ)),
// a sum over n keys by 4·√n·u of its absolute terms, and the result is rounded once to the dtype of
// the tensor.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "core/backend.h"
#include "test/support/close.h"
#include "test/support/run.h"
#include "test/support/simd_targets.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

constexpr double kU = 1.0 / 16777216;

struct AttentionCase {
  DType dtype = DType::kF32;
  int64_t batch = 1, queries = 1, q_heads = 1, kv_heads = 1, d = 8, window = 0;
  int64_t q_offset = 0, capacity = 0;  // capacity 0: as many keys as queries
  bool key_begin = false;

  int64_t keys() const { return q_offset + queries; }
  int64_t allocated() const { return std::max(capacity, keys()); }
  std::string Name() const {
    std::ostringstream out;
    out << NameOf(dtype) << " batch " << batch << " queries " << queries << " + " << q_offset
        << " heads " << q_heads << '/' << kv_heads << " d " << d << " window " << window
        << (key_begin ? " key_begin" : "");
    return out.str();
  }
};

struct Operands {
  Tensor q, k, v, g, key_begin;
  float scale;

  explicit Operands(const AttentionCase& c) : scale(1 / std::sqrt(static_cast<float>(c.d))) {
    const Shape rows{c.batch, c.queries, c.q_heads, c.d},
        keys{c.batch, c.allocated(), c.kv_heads, c.d};
    q = Normal(c.dtype, rows, 1);
    k = Normal(c.dtype, keys, 2);
    v = Normal(c.dtype, keys, 3);
    g = Normal(c.dtype, rows, 4);
    if (!c.key_begin) return;
    // Two documents in a row, the second beginning at a third of the keys.
    key_begin = Tensor(DType::kI32, {c.batch, c.queries});
    for (int64_t i = 0; i < key_begin.numel(); ++i) {
      const int64_t position = c.q_offset + i % c.queries, cut = c.keys() / 3;
      key_begin.Set(i, position < cut ? 0 : static_cast<double>(cut));
    }
  }
};

AttentionForwardArgs ForwardArgs(const AttentionCase& c, const Operands& o, const Tensor& y,
                                 const Tensor& lse) {
  AttentionForwardArgs args;
  args.q = o.q;
  args.k = o.k;
  args.v = o.v;
  args.key_begin = o.key_begin;
  args.kv_length = c.keys();
  args.q_offset = c.q_offset;
  args.window = c.window;
  args.scale = o.scale;
  args.y = y;
  args.lse = lse;
  return args;
}

Operands Widened(const Operands& o) {
  Operands wide = o;
  wide.q = o.q.As(DType::kF64);
  wide.k = o.k.As(DType::kF64);
  wide.v = o.v.As(DType::kF64);
  wide.g = o.g.As(DType::kF64);
  return wide;
}

// What one (batch, query, head) sees, with the error bound of each score and the probabilities.
struct Row {
  int64_t q = 0, lse = 0;                        // offsets
  std::vector<int64_t> keys;                     // offsets of the visible keys
  std::vector<double> score, error, p;           // error: of the score as exp sees it
  double largest = 0, worst = 0, sum_error = 0;  // sum_error: relative, of a sum over the keys
};

template <class Visit>
void EachRow(const AttentionCase& c, const Operands& o, const Visit& visit) {
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
        row.largest = -std::numeric_limits<double>::infinity();
        for (int64_t j = first; j <= position; ++j) {
          const int64_t key =
              ((b * c.allocated() + j) * c.kv_heads + h / (c.q_heads / c.kv_heads)) * c.d;
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
          row.error.push_back(
              kU * (4 * std::sqrt(static_cast<double>(c.d)) * o.scale * std::sqrt(qq * kk) +
                    2 * std::fabs(s) + 4));
          row.largest = std::max(row.largest, s);
        }
        double sum = 0;
        for (const double s : row.score) sum += std::exp(s - row.largest);
        for (size_t j = 0; j < row.keys.size(); ++j) {
          row.p.push_back(std::exp(row.score[j] - row.largest) / sum);
          row.error[j] += kU * (row.largest - row.score[j]);
          row.worst = std::max(row.worst, row.error[j]);
        }
        const double n = static_cast<double>(row.keys.size());
        row.sum_error = kU * (4 * std::sqrt(n) + 3 * (n / 64 + 1));
        visit(row);
      }
}

struct ForwardBounds {
  std::vector<double> y, lse;
};
ForwardBounds BoundsOf(const AttentionCase& c, const Operands& o, const Tensor& y,
                       const Tensor& lse) {
  ForwardBounds bounds;
  bounds.y.resize(static_cast<size_t>(y.numel()));
  bounds.lse.resize(static_cast<size_t>(lse.numel()));
  const auto v = o.v.Values();
  EachRow(c, o, [&](const Row& row) {
    for (int64_t n = 0; n < c.d; ++n) {
      double bound = 0;
      for (size_t j = 0; j < row.keys.size(); ++j) {
        bound += row.p[j] * std::fabs(v[static_cast<size_t>(row.keys[j] + n)]) *
                 (row.error[j] + row.worst + 2 * row.sum_error);
      }
      bounds.y[static_cast<size_t>(row.q + n)] =
          bound + std::fabs(y.at(row.q + n)) * (UnitRoundoff(c.dtype) + 2 * kU);
    }
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
struct GradientBounds {
  std::vector<double> dq, dk, dv;
};

AttentionBackwardArgs BackwardArgs(const AttentionCase& c, const Operands& o, const Tensor& y,
                                   const Tensor& lse, const Gradients& d) {
  AttentionBackwardArgs args;
  args.q = o.q;
  args.k = o.k;
  args.v = o.v;
  args.key_begin = o.key_begin;
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
GradientBounds BoundsOf(const AttentionCase& c, const Operands& o, const Tensor& y,
                        const Tensor& lse, const Gradients& expected) {
  GradientBounds bounds;
  bounds.dq.resize(static_cast<size_t>(o.q.numel()));
  bounds.dk.resize(static_cast<size_t>(o.k.numel()));
  bounds.dv.resize(static_cast<size_t>(o.v.numel()));
  const auto q = o.q.Values(), k = o.k.Values(), v = o.v.Values(), g = o.g.Values(),
             yy = y.Values();
  const double dot_error = 4 * std::sqrt(static_cast<double>(c.d)) * kU;
  const double sum_error = kU * (4 * std::sqrt(static_cast<double>(c.queries * c.q_heads)) + 4);
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
          ds * (p_error + sum_error) +
          row.p[j] * (dot_error * std::sqrt(gg) * (std::sqrt(vv) + std::sqrt(y_square)) +
                      2 * kU * (std::fabs(dp) + std::fabs(inner)));
      for (int64_t n = 0; n < c.d; ++n) {
        const size_t query = static_cast<size_t>(row.q + n);
        const size_t key = static_cast<size_t>(row.keys[j] + n);
        bounds.dq[query] += o.scale * ds_error * std::fabs(k[key]);
        bounds.dk[key] += o.scale * ds_error * std::fabs(q[query]);
        bounds.dv[key] += row.p[j] * std::fabs(g[query]) * (p_error + sum_error);
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

// fn(context) on every usable instruction set with 1, 2 and 3 threads.
template <class Fn>
void OnEveryTarget(const Fn& fn) {
  ForEachSimdTarget([&] {
    for (const int threads : {1, 2, 3}) {
      CAPTURE(threads);
      const std::unique_ptr<Context> context = CpuBackend().create_context(threads);
      fn(*context);
    }
  });
}

void CheckForward(const AttentionCase& c) {
  CAPTURE(c.Name());
  const Operands operands(c), wide = Widened(operands);
  const Shape lse_shape{c.batch, c.q_heads, c.queries};
  const Tensor y(DType::kF64, operands.q.shape()), lse(DType::kF32, lse_shape);
  Run(ReferenceBackend(), &Backend::attention_forward, ForwardArgs(c, wide, y, lse));
  const ForwardBounds bounds = BoundsOf(c, operands, y, lse);
  OnEveryTarget([&](Context& context) {
    const Tensor y1(c.dtype, y.shape()), lse1(DType::kF32, lse_shape);
    Run(CpuBackend().attention_forward, ForwardArgs(c, operands, y1, lse1), context);
    CHECK_CLOSE(y1, y, bounds.y);
    CHECK_CLOSE(lse1, lse, bounds.lse);
    CHECK((y1.intact() && lse1.intact()));
    const Tensor y2(c.dtype, y.shape());
    Run(CpuBackend().attention_forward, ForwardArgs(c, operands, y2, Tensor()), context);
    CHECK_IDENTICAL(y2, y1);
  });
}

void CheckBackward(const AttentionCase& c) {
  CAPTURE(c.Name());
  const Operands operands(c), wide = Widened(operands);
  const Tensor y(c.dtype, operands.q.shape()), lse(DType::kF32, {c.batch, c.q_heads, c.queries});
  Run(ReferenceBackend(), &Backend::attention_forward, ForwardArgs(c, operands, y, lse));
  const Gradients expected(DType::kF64, operands);
  Run(ReferenceBackend(), &Backend::attention_backward,
      BackwardArgs(c, wide, y.As(DType::kF64), lse, expected));
  const GradientBounds bounds = BoundsOf(c, operands, y, lse, expected);
  OnEveryTarget([&](Context& context) {
    const Gradients first(c.dtype, operands), second(c.dtype, operands);
    Run(CpuBackend().attention_backward, BackwardArgs(c, operands, y, lse, first), context);
    CHECK_CLOSE(first.dq, expected.dq, bounds.dq);
    CHECK_CLOSE(first.dk, expected.dk, bounds.dk);
    CHECK_CLOSE(first.dv, expected.dv, bounds.dv);
    CHECK((first.dq.intact() && first.dk.intact() && first.dv.intact()));
    Run(CpuBackend().attention_backward, BackwardArgs(c, operands, y, lse, second), context);
    CHECK_IDENTICAL(second.dq, first.dq);
    CHECK_IDENTICAL(second.dk, first.dk);
    CHECK_IDENTICAL(second.dv, first.dv);
  });
}

// Every length meets every head dim; groups, windows, documents and batches go round.
std::vector<AttentionCase> Cases() {
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

TEST_CASE("attention agrees with the reference") {
  for (const AttentionCase& c : Cases()) CheckForward(c);
}

TEST_CASE("attention's gradients agree with the reference") {
  for (const AttentionCase& c : Cases()) CheckBackward(c);
}

TEST_CASE("attention continues from a cache") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const std::vector<AttentionCase> cases = {
        {dtype, 1, 1, 1, 1, 16, 0, 0, 9},         {dtype, 1, 1, 9, 3, 64, 0, 127, 0},
        {dtype, 2, 1, 9, 3, 64, 0, 128, 200},     {dtype, 3, 1, 4, 2, 12, 5, 300, 0},
        {dtype, 1, 1, 8, 1, 80, 12, 517, 600},    {dtype, 1, 2, 4, 1, 13, 0, 255, 0},
        {dtype, 1, 3, 4, 2, 128, 0, 61, 64},      {dtype, 1, 5, 9, 3, 24, 12, 400, 512},
        {dtype, 2, 65, 4, 2, 16, 0, 100, 0},      {dtype, 1, 7, 1, 1, 8, 5, 63, 80},
        {dtype, 1, 1, 9, 3, 64, 0, 300, 0, true}, {dtype, 1, 30, 3, 1, 7, 0, 20, 0, true},
    };
    for (const AttentionCase& c : cases) CheckForward(c);
  }
}

TEST_CASE("a query that sees no key gives zero and no gradient") {
  for (const int64_t queries : {3, 40}) {
    AttentionCase c;
    c.queries = queries;
    c.q_heads = 2;
    Operands o(c);
    o.key_begin = Tensor(DType::kI32, {1, queries});
    for (int64_t i = 0; i < queries; ++i) o.key_begin.Set(i, i == 1 ? 2 : 0);
    OnEveryTarget([&](Context& context) {
      const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {1, 2, queries});
      Run(CpuBackend().attention_forward, ForwardArgs(c, o, y, lse), context);
      const Gradients d(c.dtype, o);
      Run(CpuBackend().attention_backward, BackwardArgs(c, o, y, lse, d), context);
      for (int64_t i = 0; i < y.numel(); ++i) {
        const bool blind = i / (2 * c.d) == 1;
        CHECK(std::isfinite(y.at(i)));
        CHECK(std::isfinite(d.dq.at(i)));
        if (blind) CHECK((y.at(i) == 0 && d.dq.at(i) == 0));
      }
      CHECK(lse.at(1) == -std::numeric_limits<double>::infinity());
      CHECK(std::isfinite(lse.at(2)));
      for (int64_t i = 0; i < d.dk.numel(); ++i) CHECK(std::isfinite(d.dk.at(i) + d.dv.at(i)));
    });
  }
}

TEST_CASE("large scores neither overflow nor lose their order") {
  AttentionCase c;
  c.queries = 70;
  c.d = 16;
  Operands o(c);
  o.q = Normal(c.dtype, o.q.shape(), 5, 60);
  o.k = Normal(c.dtype, o.k.shape(), 6, 60);
  const Operands wide = Widened(o);
  const Tensor expected(DType::kF64, o.q.shape()), lse(DType::kF32, {1, 1, 70});
  Run(ReferenceBackend(), &Backend::attention_forward, ForwardArgs(c, wide, expected, lse));
  const ForwardBounds bounds = BoundsOf(c, o, expected, lse);
  OnEveryTarget([&](Context& context) {
    const Tensor y(c.dtype, o.q.shape());
    Run(CpuBackend().attention_forward, ForwardArgs(c, o, y, Tensor()), context);
    CHECK_CLOSE(y, expected, bounds.y);
  });
}

TEST_CASE("a NaN in a key reaches the queries that see it") {
  for (const int64_t queries : {2, 40}) {
    AttentionCase c;
    c.queries = queries;
    Operands o(c);
    o.k.Set(c.d, std::numeric_limits<double>::quiet_NaN());  // key 1
    OnEveryTarget([&](Context& context) {
      const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {1, 1, queries});
      Run(CpuBackend().attention_forward, ForwardArgs(c, o, y, lse), context);
      for (int64_t i = 0; i < y.numel(); ++i) CHECK(std::isnan(y.at(i)) == (i >= c.d));
    });
  }
}

TEST_CASE("attention of nothing is nothing") {
  AttentionCase c;
  c.queries = 0;
  Operands o(c);
  const Tensor y(c.dtype, o.q.shape()), lse(DType::kF32, {1, 1, 0});
  Run(CpuBackend(), &Backend::attention_forward, ForwardArgs(c, o, y, lse), 2);
  const Gradients d(c.dtype, o);
  Run(CpuBackend(), &Backend::attention_backward, BackwardArgs(c, o, y, lse, d), 2);
}

TEST_CASE("cache_append writes its positions and no others") {
  const Tensor src = Normal(DType::kBF16, {2, 3, 2, 5}, 1);
  Tensor cache = Full(DType::kBF16, {2, 7, 2, 5}, 9);
  CacheAppendArgs args;
  args.src = src;
  args.cache = cache;
  args.offset = 2;
  Run(CpuBackend(), &Backend::cache_append, args);
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t i = 0; i < 70; ++i) {
      const bool inside = i >= 20 && i < 50;
      CHECK(cache.at(b * 70 + i) == (inside ? src.at(b * 30 + i - 20) : 9.0));
    }
}

}  // namespace
}  // namespace lora::test
