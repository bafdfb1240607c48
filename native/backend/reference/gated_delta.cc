// Token by token, with q' and k' normalized and S of each head:
//   S' = e^g·S,  z = v − S'ᵀ·k',  u = β·z,  S = S' + k'·uᵀ,  y = scale·Sᵀ·q'
// and backwards, with dS of what comes later:
//   dS += scale·q'·dyᵀ,  dq' = scale·S·dy,  du = dSᵀ·k',  dv = dz = β·du,  dβ = du·z
//   dk' = dS·u − S'·dz,  dS' = dS − k'·dzᵀ,  dg = Σ dS'·S',  dS = e^g·dS'
#include <cmath>

#include "backend/reference/kernels.h"
#include "backend/reference/rows.h"

namespace lora::reference {
namespace {

// x/√(Σ x² + eps) of a head, and what turns its gradient into that of x.
struct Normed {
  Vector x;
  double factor;

  Normed(const TensorView& view, int64_t at, int64_t n, float eps) : x(LoadRange(view, at, n)) {
    double square = eps;
    for (const double value : x) square += value * value;
    factor = square > 0 ? 1 / std::sqrt(square) : 0;
    for (double& value : x) value *= factor;
  }
  Vector Gradient(const Vector& g) const {
    double along = 0;
    for (size_t i = 0; i < x.size(); ++i) along += x[i] * g[i];
    Vector result(x.size());
    for (size_t i = 0; i < x.size(); ++i) result[i] = factor * (g[i] - x[i] * along);
    return result;
  }
};

// A matrix [rows, cols] in one block of memory.
struct State {
  size_t rows, cols;
  Vector values;
  State(int64_t rows, int64_t cols)
      : rows(static_cast<size_t>(rows)),
        cols(static_cast<size_t>(cols)),
        values(this->rows * this->cols, 0.0) {}
  double& at(size_t i, size_t j) { return values[i * cols + j]; }
  double at(size_t i, size_t j) const { return values[i * cols + j]; }

  Vector TimesRows(const Vector& x) const {  // Sᵀ·x
    Vector y(cols, 0.0);
    for (size_t i = 0; i < rows; ++i)
      for (size_t j = 0; j < cols; ++j) y[j] += at(i, j) * x[i];
    return y;
  }
  Vector TimesColumns(const Vector& x) const {  // S·x
    Vector y(rows, 0.0);
    for (size_t i = 0; i < rows; ++i)
      for (size_t j = 0; j < cols; ++j) y[i] += at(i, j) * x[j];
    return y;
  }
  void Scale(double factor) {
    for (double& value : values) value *= factor;
  }
  void AddOuter(double factor, const Vector& x, const Vector& y) {
    for (size_t i = 0; i < rows; ++i)
      for (size_t j = 0; j < cols; ++j) at(i, j) += factor * x[i] * y[j];
  }
};

// One token of a head, which makes S' of S and then S.
struct Token {
  Normed q, k;
  double decay, beta;
  Vector z, u;

  Token(const DeltaOperands& o, int64_t b, int64_t t, int64_t h, bool begins, State& s)
      : q(o.q, o.AtKey(b, t, h / o.group), o.dk, o.eps),
        k(o.k, o.AtKey(b, t, h / o.group), o.dk, o.eps),
        decay(begins ? 0 : std::exp(Load(o.g, o.AtGate(b, t, h)))),
        beta(Load(o.beta, o.AtGate(b, t, h))),
        z(LoadRange(o.v, o.AtValue(b, t, h), o.dv)) {
    if (begins) s = State(o.dk, o.dv);
    s.Scale(decay);
    const Vector seen = s.TimesRows(k.x);
    for (size_t j = 0; j < z.size(); ++j) z[j] -= seen[j];
    u = z;
    for (double& value : u) value *= beta;
    s.AddOuter(1, k.x, u);
  }
  Vector Output(const DeltaOperands& o, const State& s) const {
    Vector y = s.TimesRows(q.x);
    for (double& value : y) value *= o.scale;
    return y;
  }
};

// The gradients of q and k of each head, to which several heads of v add.
struct KeyGradients {
  Vector dq, dk;
};

void BackwardHead(const GatedDeltaBackwardArgs& args, const DeltaOperands& o, int64_t b, int64_t h,
                  std::vector<KeyGradients>& keys) {
  std::vector<Token> tokens;
  std::vector<State> before;  // S'
  State s(o.dk, o.dv);
  for (int64_t t = 0; t < o.tokens; ++t) {
    State decayed = s;
    tokens.emplace_back(o, b, t, h, BeginsText(args.key_begin, b, t), s);
    if (tokens.back().decay == 0) decayed = State(o.dk, o.dv);
    decayed.Scale(tokens.back().decay);
    before.push_back(std::move(decayed));
  }
  State ds(o.dk, o.dv);
  for (int64_t t = o.tokens - 1; t >= 0; --t) {
    const Token& token = tokens[static_cast<size_t>(t)];
    const State& decayed = before[static_cast<size_t>(t)];
    State after = decayed;
    after.AddOuter(1, token.k.x, token.u);
    const Vector dy = LoadRange(args.dy, o.AtValue(b, t, h), o.dv);
    ds.AddOuter(o.scale, token.q.x, dy);
    Vector dq = after.TimesColumns(dy);
    for (double& value : dq) value *= o.scale;
    const Vector du = ds.TimesRows(token.k.x);
    Vector dk = ds.TimesColumns(token.u), dz = du;
    double dbeta = 0;
    for (size_t j = 0; j < du.size(); ++j) {
      dbeta += du[j] * token.z[j];
      dz[j] *= token.beta;
    }
    const Vector less = decayed.TimesColumns(dz);
    for (size_t i = 0; i < dk.size(); ++i) dk[i] -= less[i];
    ds.AddOuter(-1, token.k.x, dz);
    double dg = 0;
    for (size_t i = 0; i < ds.values.size(); ++i) dg += ds.values[i] * decayed.values[i];
    StoreRange(args.dv, o.AtValue(b, t, h), dz);
    Store(args.dg, o.AtGate(b, t, h), dg);
    Store(args.dbeta, o.AtGate(b, t, h), dbeta);
    ds.Scale(token.decay);
    if (token.decay == 0) ds = State(o.dk, o.dv);
    KeyGradients& sums = keys[static_cast<size_t>(t)];
    const Vector of_q = token.q.Gradient(dq), of_k = token.k.Gradient(dk);
    for (size_t i = 0; i < of_q.size(); ++i) {
      sums.dq[i] += of_q[i];
      sums.dk[i] += of_k[i];
    }
  }
}

}  // namespace

void Run(const GatedDeltaForwardArgs& args, Scratch, Context&) {
  const DeltaOperands o(args);
  for (int64_t b = 0; b < o.batch; ++b) {
    for (int64_t h = 0; h < o.v_heads; ++h) {
      State s(o.dk, o.dv);
      for (int64_t t = 0; t < o.tokens; ++t) {
        const Token token(o, b, t, h, BeginsText(args.key_begin, b, t), s);
        StoreRange(args.y, o.AtValue(b, t, h), token.Output(o, s));
      }
    }
  }
}

void Run(const GatedDeltaBackwardArgs& args, Scratch, Context&) {
  const DeltaOperands o(args);
  const Vector none(static_cast<size_t>(o.dk), 0.0);
  for (int64_t b = 0; b < o.batch; ++b) {
    for (int64_t head = 0; head < o.k_heads; ++head) {
      std::vector<KeyGradients> keys(static_cast<size_t>(o.tokens), {none, none});
      for (int64_t h = head * o.group; h < (head + 1) * o.group; ++h)
        BackwardHead(args, o, b, h, keys);
      for (int64_t t = 0; t < o.tokens; ++t) {
        StoreRange(args.dq, o.AtKey(b, t, head), keys[static_cast<size_t>(t)].dq);
        StoreRange(args.dk, o.AtKey(b, t, head), keys[static_cast<size_t>(t)].dk);
      }
    }
  }
}

void Run(const GatedDeltaAppendArgs& args, Scratch, Context&) {
  CheckSlots("gated_delta_append", args.slots, args.lengths, args.pool.dim(0), args.q.dim(1));
  const DeltaOperands o(args);
  for (int64_t b = 0; b < o.batch; ++b) {
    const int64_t slot = args.slots.as<const int32_t>()[b];
    const bool fresh = args.lengths.as<const int32_t>()[b] == o.tokens;
    for (int64_t h = 0; h < o.v_heads; ++h) {
      const int64_t size = o.dk * o.dv, at = (slot * o.v_heads + h) * size;
      State s(o.dk, o.dv);
      if (!fresh) s.values = LoadRange(args.pool, at, size);
      for (int64_t t = 0; t < o.tokens; ++t) {
        const Token token(o, b, t, h, fresh && t == 0, s);
        StoreRange(args.y, o.AtValue(b, t, h), token.Output(o, s));
      }
      if (o.tokens > 0) StoreRange(args.pool, at, s.values);
    }
  }
}

template PlannedCall Plan(const GatedDeltaForwardArgs&, int);
template PlannedCall Plan(const GatedDeltaBackwardArgs&, int);
template PlannedCall Plan(const GatedDeltaAppendArgs&, int);
}  // namespace lora::reference
