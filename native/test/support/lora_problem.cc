#include "test/support/lora_problem.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/maths/philox.h"
#include "test/support/gathered_bounds.h"
#include "test/support/rounding.h"

namespace lora::test {
namespace {

// 4·√k·ε: a sum of k products, relative to the product of their norms.

// A matrix of doubles with the norms of its rows and columns.
struct Matrix {
  int64_t rows = 0, cols = 0;
  Vector values;
  Matrix(int64_t rows, int64_t cols, Vector values)
      : rows(rows), cols(cols), values(std::move(values)) {}
  explicit Matrix(const Tensor& t) : Matrix(t.shape()[0], t.shape()[1], t.Values()) {}
  double operator()(int64_t i, int64_t j) const {
    return values[static_cast<size_t>(i * cols + j)];
  }
  Vector RowNorms() const {
    return Norms(rows, [this](int64_t i, int64_t) { return i; });
  }
  Vector ColNorms() const {
    return Norms(cols, [](int64_t, int64_t j) { return j; });
  }

 private:
  Vector Norms(int64_t n, const std::function<int64_t(int64_t, int64_t)>& at) const {
    Vector sums(static_cast<size_t>(n), 0.0);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < cols; ++j)
        sums[static_cast<size_t>(at(i, j))] += (*this)(i, j) * (*this)(i, j);
    for (double& sum : sums) sum = std::sqrt(sum);
    return sums;
  }
};

double At(const Vector& v, int64_t i) { return v[static_cast<size_t>(i)]; }

// x as the LoRA path sees it, mask and scale applied.
Matrix Dropped(const Tensor& x, const Dropout& dropout) {
  Matrix m(x);
  if (!dropout.active()) return m;
  const uint32_t threshold = DropoutThreshold(dropout.p);
  PhiloxWords words{};
  for (int64_t i = 0; i < m.rows; ++i) {
    for (int64_t j = 0; j < m.cols; ++j) {
      if (j % 8 == 0) {
        words = Philox4x32(dropout.seed, {static_cast<uint32_t>(j / 8), static_cast<uint32_t>(i),
                                          dropout.layer, dropout.forward});
      }
      m.values[static_cast<size_t>(i * m.cols + j)] *=
          DropoutKeeps(words, static_cast<int>(j % 8), threshold) ? DropoutScale(threshold) : 0;
    }
  }
  return m;
}

// The bound of element (i, j) from every (i, j), row-major.
Vector Each(int64_t rows, int64_t cols, const std::function<double(int64_t, int64_t)>& bound) {
  Vector bounds;
  bounds.reserve(static_cast<size_t>(rows * cols));
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) bounds.push_back(bound(i, j));
  return bounds;
}

// Operands of one branch, in the form that the bounds need.
struct Low {
  Matrix a, b, xd, h, u;
  Vector a_rows, a_cols, b_rows, b_cols, xd_rows, xd_cols, h_rows, h_cols, u_rows, u_cols;
  Low(const BranchOperands& branch, const Tensor& x, const Tensor& h_in, const Tensor& g)
      : a(branch.up),
        b(branch.down),
        xd(Dropped(x, branch.dropout)),
        h(h_in),
        u(UpTransposed(g)),
        a_rows(a.RowNorms()),
        a_cols(a.ColNorms()),
        b_rows(b.RowNorms()),
        b_cols(b.ColNorms()),
        xd_rows(xd.RowNorms()),
        xd_cols(xd.ColNorms()),
        h_rows(h.RowNorms()),
        h_cols(h.ColNorms()),
        u_rows(u.RowNorms()),
        u_cols(u.ColNorms()) {}
  int64_t r() const { return a.cols; }

  // The terms of h, whose down is rounded, and of u, whose up is.
  RoundedTerms DownTerms(int64_t row, int64_t rank) const {
    RoundedTerms terms;
    for (int64_t k = 0; k < xd.cols; ++k) terms.Add(xd(row, k) * b(rank, k));
    return terms;
  }
  RoundedTerms UpTerms(const Matrix& g, int64_t row, int64_t rank) const {
    RoundedTerms terms;
    for (int64_t o = 0; o < g.cols; ++o) terms.Add(g(row, o) * a(o, rank));
    return terms;
  }

 private:
  // u = g·up.
  Matrix UpTransposed(const Tensor& g_in) const {
    const Matrix g(g_in);
    return Matrix(g.rows, a.cols, Each(g.rows, a.cols, [&](int64_t i, int64_t r) {
                    double sum = 0;
                    for (int64_t o = 0; o < a.rows; ++o) sum += g(i, o) * a(o, r);
                    return sum;
                  }));
  }
};

}  // namespace

LoraLinearProblem::LoraLinearProblem(const LoraLinearCase& of, uint64_t seed, Values values)
    : shape(of) {
  const bool whole = values == Values::kWhole;
  // A LoRA term of about the size of W·x, so that neither hides in the other's rounding.
  const auto random = [&](DType dtype, Shape dims, int64_t fan_in) {
    seed += 1000;
    if (whole) return Integers(dtype, dims, seed, -2, 2);
    return Normal(dtype, dims, seed,
                  1 / std::sqrt(static_cast<double>(std::max<int64_t>(fan_in, 1))));
  };
  x = random(of.dtype, {of.m, of.k}, 1);
  for (const BranchCase& c : of.branches) {
    BranchOperands branch;
    branch.weight = random(of.dtype, {c.n, of.k}, of.k);
    // Both dtypes that a bias may have.
    const bool wide_bias = branches.size() % 2 == 1;
    if (c.bias) branch.bias = random(wide_bias ? DType::kF32 : of.dtype, {c.n}, 1);
    if (c.factor) {
      branch.factor = random(DType::kF32, {c.n}, 1);
      for (int64_t i = 1; i < c.n; i += 4) branch.factor.Set(i, 0);
    }
    if (c.r > 0) {
      branch.scale = whole ? 2.0f : 0.75f;
      branch.up = random(DType::kF32, {c.n, c.r}, c.r);
      branch.down = random(DType::kF32, {c.r, of.k}, of.k);
      branch.dropout = {c.dropout, 0x123456789abcdefull + seed, 3, 41};
    }
    branches.push_back(std::move(branch));
    g.push_back(random(of.dtype, {of.m, c.n}, 1));
  }
}

LoraLinearProblem LoraLinearProblem::As(DType dtype) const {
  LoraLinearProblem copy = *this;
  copy.shape.dtype = dtype;
  copy.x = x.As(dtype);
  for (Tensor& t : copy.g) t = t.As(dtype);
  // Masters are f32 or wider.
  const DType master = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  for (BranchOperands& branch : copy.branches) {
    branch.weight = branch.weight.As(dtype);
    branch.bias = branch.bias.As(dtype);
    branch.up = branch.up.As(master);
    branch.down = branch.down.As(master);
    branch.factor = branch.factor.As(master);
  }
  return copy;
}

namespace {

LoraBranch View(const BranchOperands& branch, const PackedView& weight) {
  return {weight, branch.bias, branch.up, branch.down, branch.scale, branch.dropout};
}

DType MasterOf(const Tensor& x) { return x.dtype() == DType::kF64 ? DType::kF64 : DType::kF32; }

}  // namespace

LoraLinearOutputs LoraLinearProblem::Forward(const Backend& backend, Context& context,
                                             bool with_h) const {
  LoraLinearOutputs out;
  LoraLinearForwardArgs args;
  args.x = x;
  args.phase = phase;
  std::vector<FrozenWeight> weights;
  for (const BranchOperands& branch : branches) {
    weights.emplace_back(backend, branch.weight, context);
    args.branches.push_back(View(branch, weights.back().view()));
    args.branches.back().factor = branch.factor;
    out.y.emplace_back(x.dtype(), Shape{shape.m, branch.weight.shape()[0]});
    out.h.push_back(branch.up && with_h ? Tensor(MasterOf(x), {shape.m, branch.up.shape()[1]})
                                        : Tensor());
    args.y.push_back(out.y.back());
    args.h.push_back(out.h.back());
  }
  Run(backend, args, context);
  for (const Tensor& t : out.y) CHECK_MESSAGE(t.intact(), "wrote behind the end of y");
  for (const Tensor& t : out.h) CHECK_MESSAGE(t.intact(), "wrote behind the end of h");
  return out;
}

LoraLinearOutputs LoraLinearProblem::Backward(const Backend& backend, Context& context,
                                              const std::vector<Tensor>& h) const {
  LoraLinearOutputs out;
  LoraLinearBackwardArgs args;
  args.x = x;
  out.dx = Tensor(x.dtype(), x.shape());
  args.dx = out.dx;
  std::vector<FrozenWeight> weights;
  for (size_t i = 0; i < branches.size(); ++i) {
    const BranchOperands& branch = branches[i];
    weights.emplace_back(backend, branch.weight, context);
    args.branches.push_back(View(branch, weights.back().view()));
    args.g.push_back(g[i]);
    args.h.push_back(branch.up ? h[i].view() : TensorView());
    out.d_up.push_back(branch.up ? Tensor(MasterOf(x), branch.up.shape()) : Tensor());
    out.d_down.push_back(branch.down ? Tensor(MasterOf(x), branch.down.shape()) : Tensor());
    args.d_up.push_back(out.d_up.back());
    args.d_down.push_back(out.d_down.back());
  }
  Run(backend, args, context);
  CHECK_MESSAGE(out.dx.intact(), "wrote behind the end of dx");
  for (const Tensor& t : out.d_up) CHECK_MESSAGE(t.intact(), "wrote behind the end of d_up");
  for (const Tensor& t : out.d_down) CHECK_MESSAGE(t.intact(), "wrote behind the end of d_down");
  return out;
}

LoraLinearOutputs LoraLinearProblem::Expected() const {
  const LoraLinearProblem wide = As(DType::kF64);
  const auto context = ReferenceBackend().create_context(1);
  LoraLinearOutputs out = wide.Forward(ReferenceBackend(), *context);
  // Backward is given h in f32 (it is an operand there), so that it is expected of the same.
  std::vector<Tensor> h;
  for (const Tensor& t : out.h) h.push_back(t.As(DType::kF32).As(DType::kF64));
  LoraLinearOutputs backward = wide.Backward(ReferenceBackend(), *context, h);
  out.dx = std::move(backward.dx);
  out.d_up = std::move(backward.d_up);
  out.d_down = std::move(backward.d_down);
  return out;
}

double Precision::Sum(int64_t terms, int64_t all) const {
  if (tensor_cores && *tensor_cores != DType::kF32)
    return TensorCoreError(all) * PartialSums(terms);
  return 4 * std::sqrt(static_cast<double>(terms)) * accumulator;
}

double Precision::LowRankSum(int64_t terms) const {
  return tensor_cores ? LowRankSumError(*tensor_cores, terms) : Sum(terms, terms);
}

LoraLinearBounds LoraLinearProblem::Bounds(const LoraLinearOutputs& expected,
                                           const Precision& precision) const {
  const double epsilon = precision.accumulator, u_low = precision.low_rank;
  const double u_down = precision.down, u_gradient = precision.gradients;
  const double u_out = UnitRoundoff(x.dtype()), u_master = UnitRoundoff(MasterOf(x));
  const int64_t m = shape.m, k = shape.k;
  LoraLinearBounds bounds;
  Gathered dx(m * k);
  int64_t dx_independent = m * k;
  const Vector x_rows = Matrix(x).RowNorms();
  const auto rank_of = [](const BranchOperands& branch) {
    return branch.up ? branch.up.shape()[1] : int64_t{0};
  };
  int64_t dx_terms = 0;  // of one accumulator, which gets those of all branches
  for (const BranchOperands& branch : branches)
    dx_terms += branch.weight.shape()[0] + rank_of(branch);
  for (size_t i = 0; i < branches.size(); ++i) {
    const BranchOperands& branch = branches[i];
    const Matrix w(branch.weight), gm(g[i]);
    const int64_t n = w.rows, rank = rank_of(branch);
    const Vector w_rows = w.RowNorms(), w_cols = w.ColNorms();
    const Vector g_rows = gm.RowNorms(), g_cols = gm.ColNorms();
    const auto factor = [&branch](int64_t o) {
      return branch.factor ? std::fabs(branch.factor.at(o)) : 1.0;
    };
    Gathered y(m * n);
    for (int64_t row = 0; row < m; ++row) {
      for (int64_t o = 0; o < n; ++o) {
        const double bias = branch.bias ? std::fabs(branch.bias.at(o)) : 0;
        y.AddSum(row * n + o,
                 factor(o) * precision.Sum(k, k + rank) * At(x_rows, row) * At(w_rows, o) +
                     epsilon * (bias + std::fabs(expected.y[i].at(row * n + o))));
      }
      for (int64_t c = 0; c < k; ++c) {
        dx.AddSum(row * k + c, precision.Sum(n, dx_terms) * At(g_rows, row) * At(w_cols, c) +
                                   epsilon * std::fabs(expected.dx.at(row * k + c)));
      }
    }
    bounds.h.emplace_back();
    bounds.d_up.emplace_back();
    bounds.d_down.emplace_back();
    if (!branch.up) {
      bounds.y.push_back(y.Finish(expected.y[i], u_out, 1));
      continue;
    }

    const Low low(branch, x, expected.h[i], g[i]);
    const int64_t r = low.r();
    const double s = std::fabs(branch.scale);
    const double keep =
        branch.dropout.active() ? DropoutScale(DropoutThreshold(branch.dropout.p)) : 1.0;
    // What h and u, held in f32, may be off by: the sum, a few roundings of the value itself, and
    // those of down and up.
    const auto h_sum = [&](int64_t row, int64_t j) {
      return precision.LowRankSum(k) * At(low.xd_rows, row) * At(low.b_rows, j) +
             4 * epsilon * std::fabs(low.h(row, j));
    };
    const auto u_sum = [&](int64_t row, int64_t j) {
      return precision.LowRankSum(n) * At(g_rows, row) * At(low.a_cols, j) +
             4 * epsilon * std::fabs(low.u(row, j));
    };
    std::vector<RoundedTerms> h_terms, u_terms;  // [m, r]
    Gathered h(m * r), d_up(n * r), d_down(r * k);
    for (int64_t row = 0; row < m; ++row) {
      for (int64_t j = 0; j < r; ++j) {
        h_terms.push_back(low.DownTerms(row, j));
        u_terms.push_back(low.UpTerms(gm, row, j));
        h.AddSum(row * r + j, h_sum(row, j));
        h.AddRoundings(row * r + j, u_down, h_terms.back());
      }
    }
    const auto of = [r](const std::vector<RoundedTerms>& terms, int64_t row, int64_t j) {
      return terms[static_cast<size_t>(row * r + j)];
    };
    for (int64_t row = 0; row < m; ++row) {
      for (int64_t o = 0; o < n; ++o) {
        double sum = precision.Sum(r, k + r) * At(low.h_rows, row) * At(low.a_rows, o);
        double absolute = 0, square = 0;
        RoundedTerms terms;
        for (int64_t j = 0; j < r; ++j) {
          const double term = s * low.h(row, j) * low.a(o, j);
          sum += std::fabs(low.a(o, j)) * h_sum(row, j);
          terms.Add(of(h_terms, row, j), s * low.a(o, j));
          absolute += std::fabs(term);
          square += term * term;
        }
        const double c = factor(o);
        y.AddSum(row * n + o, c * s * sum);
        y.AddRoundings(row * n + o, c * u_down, terms);
        y.AddLowRank(row * n + o, u_low, c * absolute, c * c * square);
      }
      for (int64_t c = 0; c < k; ++c) {
        // Where the mask drops, the LoRA path adds an exact 0.
        if (branch.dropout.active() && low.xd(row, c) == 0 && x.at(row * k + c) != 0) continue;
        double sum = precision.Sum(r, dx_terms) * At(low.u_rows, row) * At(low.b_cols, c);
        double absolute = 0, square = 0;
        RoundedTerms terms;
        for (int64_t j = 0; j < r; ++j) {
          const double term = s * keep * low.u(row, j) * low.b(j, c);
          sum += std::fabs(low.b(j, c)) * u_sum(row, j);
          terms.Add(of(u_terms, row, j), s * keep * low.b(j, c));
          absolute += std::fabs(term);
          square += term * term;
        }
        dx.AddSum(row * k + c, s * keep * sum);
        dx.AddRoundings(row * k + c, u_gradient, terms);
        dx.AddLowRank(row * k + c, u_low, absolute, square);
      }
    }
    bounds.y.push_back(y.Finish(expected.y[i], u_out, std::min(m, n) * r));
    dx_independent = std::min(dx_independent, std::min(m, k) * r);
    for (int64_t j = 0; j < r; ++j) {
      for (int64_t o = 0; o < n; ++o) {
        RoundedTerms terms;  // h is rounded
        for (int64_t row = 0; row < m; ++row) terms.Add(gm(row, o) * low.h(row, j));
        d_up.AddSum(o * r + j, s * precision.LowRankSum(m) * At(g_cols, o) * At(low.h_cols, j) +
                                   4 * u_master * std::fabs(expected.d_up[i].at(o * r + j)));
        d_up.AddRoundings(o * r + j, s * u_gradient, terms);
      }
      for (int64_t c = 0; c < k; ++c) {
        double sum = precision.LowRankSum(m) * At(low.u_cols, j) * At(low.xd_cols, c);
        RoundedTerms terms;  // u is rounded, and up in it
        for (int64_t row = 0; row < m; ++row) {
          sum += u_sum(row, j) * std::fabs(low.xd(row, c));
          terms.Add(low.u(row, j) * low.xd(row, c));
          terms.Add(of(u_terms, row, j), low.xd(row, c));
        }
        d_down.AddSum(j * k + c,
                      s * sum + 4 * u_master * std::fabs(expected.d_down[i].at(j * k + c)));
        d_down.AddRoundings(j * k + c, s * u_gradient, terms);
      }
    }
    // Each element of down is a factor of m elements of h, each h of n of d_up, and each u of k of
    // d_down.
    bounds.h.back() = h.FinishSums(r * k);
    bounds.d_up.back() = d_up.FinishSums(m * r);
    bounds.d_down.back() = d_down.FinishSums(m * r);
  }
  bounds.dx = dx.Finish(expected.dx, u_out, dx_independent);
  return bounds;
}

std::vector<Tensor> InF32(const std::vector<Tensor>& h) {
  std::vector<Tensor> out;
  for (const Tensor& t : h) out.push_back(t ? t.As(DType::kF32) : Tensor());
  return out;
}

}  // namespace lora::test
