// The kinds of the elementwise ops unary, binary and gated: each has a line in a list, from which
// its enumerator, its word and the loops of every backend follow, and a struct with its formulas.
//
// A backend includes the formulas where it has defined what they are written in, so they have no
// include guard: Number, with the operators of arithmetic; LORA_FORMULA, by which functions are
// declared;
//   Of(float)                              the number
//   IfNegative(x, a, b), IfPositive(…)     a where x < 0, or x > 0, else b, also where x is NaN
//   IfLess(x, y, a, b), IfEqual(…)         a where x < y, or x = y, else b, also where one is NaN
//   AtLeast(low, x), AtMost(high, x)       low or high beyond them; NaN stays
//   IfAbove(high, x, a, b)                 a where x > high, else b, also where x is NaN
//   MulAdd(a, b, c)                        a·b + c
//   Root(x), Exp(x), Log(x)                √x, eˣ, ln x
//   Power(x, y)                            xʸ, as C's pow
//   Sigmoid(x)                             s = σ(x), c = 1 − σ(x), and the x to multiply them by
//   Normal(x)                              the distribution function, cdf, and the density
#ifndef LORA_CORE_MATHS_KINDS_H_
#define LORA_CORE_MATHS_KINDS_H_

#include <array>
#include <cstdint>

// KIND(name of the struct, word in JavaScript). From Gelu on they take long.
#define LORA_UNARY_KINDS(KIND) \
  KIND(Copy, "copy")           \
  KIND(Scale, "scale")         \
  KIND(Square, "square")       \
  KIND(Sqrt, "sqrt")           \
  KIND(Relu, "relu")           \
  KIND(Gelu, "gelu")           \
  KIND(Silu, "silu")           \
  KIND(GeluTanh, "gelu_tanh")  \
  KIND(Exponential, "exp")     \
  KIND(Logarithm, "log")       \
  KIND(Logistic, "sigmoid")    \
  KIND(Softcap, "softcap")     \
  KIND(Softplus, "softplus")   \
  KIND(Tanh, "tanh")

#define LORA_BINARY_KINDS(KIND) \
  KIND(Add, "add")              \
  KIND(Sub, "sub")              \
  KIND(Mul, "mul")              \
  KIND(Div, "div")              \
  KIND(Maximum, "maximum")      \
  KIND(Minimum, "minimum")      \
  KIND(Less, "less")            \
  KIND(Equal, "equal")          \
  KIND(Where, "where")          \
  KIND(WhereNot, "where_not")   \
  KIND(Pow, "pow")

#define LORA_GATED_KINDS(KIND) \
  KIND(Silu, "silu")           \
  KIND(GeluTanh, "gelu_tanh")  \
  KIND(Logistic, "sigmoid")    \
  KIND(Clamped, "clamped")

namespace lora {

#define LORA_KIND(Name, word) k##Name,
enum class UnaryKind : uint8_t { LORA_UNARY_KINDS(LORA_KIND) };
enum class BinaryKind : uint8_t { LORA_BINARY_KINDS(LORA_KIND) };
enum class GatedKind : uint8_t { LORA_GATED_KINDS(LORA_KIND) };
#undef LORA_KIND
#define LORA_KIND(Name, word) word,
inline constexpr std::array kUnaryKinds = std::to_array<const char*>({LORA_UNARY_KINDS(LORA_KIND)});
inline constexpr std::array kBinaryKinds =
    std::to_array<const char*>({LORA_BINARY_KINDS(LORA_KIND)});
inline constexpr std::array kGatedKinds = std::to_array<const char*>({LORA_GATED_KINDS(LORA_KIND)});
#undef LORA_KIND

}  // namespace lora

#endif  // LORA_CORE_MATHS_KINDS_H_

#ifdef LORA_FORMULA

namespace gated {

// f(x) = z·s and f'(x) = s·slope, where z is x within the range in which s is computed.
template <class N>
struct Gate {
  N z, s, slope;
};

// N is Number, or several numbers that are computed side by side.

// What f(gate) is multiplied by, and its gradient: up itself.
struct WholeUp {
  static LORA_FORMULA Number Up(Number up) { return up; }
  static LORA_FORMULA Number UpGradient(Number, Number g) { return g; }
};

// x·σ(x)
struct Silu : WholeUp {
  template <class N>
  static LORA_FORMULA Gate<N> At(N x) {
    const auto sigmoid = Sigmoid(x);
    return {sigmoid.x, sigmoid.s, MulAdd(sigmoid.x, sigmoid.c, Of(1))};
  }
};

// x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2 = x·σ(v) with v = x·(a + b·x²). In f32, σ(v) is 0 and 1
// long before ±16.
struct GeluTanh : WholeUp {
  static constexpr float kA = 1.59576912f, kB = 0.0713548163f;
  template <class N>
  static LORA_FORMULA Gate<N> At(N x) {
    const N z = AtLeast(-16, x), near = AtMost(16, z), square = near * near;
    const auto sigmoid = Sigmoid(near * MulAdd(square, Of(kB), Of(kA)));
    return {z, sigmoid.s, MulAdd(near * sigmoid.c, MulAdd(square, Of(3 * kB), Of(kA)), Of(1))};
  }
};

// σ(x)
struct Logistic : WholeUp {
  template <class N>
  static LORA_FORMULA Gate<N> At(N x) {
    const auto sigmoid = Sigmoid(x);
    const N one = Of(1);
    return {one, sigmoid.s, sigmoid.c};
  }
};

// gpt-oss: x·σ(1.702·x) of x up to 7, times 1 + up, of up within ±7. Beyond the limits there is no
// gradient. In f32, σ is 0 long before −64.
struct Clamped {
  static constexpr float kSteepness = 1.702f, kLimit = 7;
  template <class N>
  static LORA_FORMULA Gate<N> At(N x) {
    const N z = AtLeast(-64, AtMost(kLimit, x));
    const auto sigmoid = Sigmoid(z * Of(kSteepness));
    const N slope = MulAdd(z * Of(kSteepness), sigmoid.c, Of(1));
    return {z, sigmoid.s, IfAbove(kLimit, x, Of(0), slope)};
  }
  static LORA_FORMULA Number Up(Number up) { return AtLeast(-kLimit, AtMost(kLimit, up)) + Of(1); }
  static LORA_FORMULA Number UpGradient(Number up, Number g) {
    return IfAbove(kLimit, up, Of(0), IfAbove(kLimit, Of(0) - up, Of(0), g));
  }
};

// Calls f<struct>() for a kind.
template <class F>
LORA_FORMULA void ForKind(GatedKind kind, const F& f) {
  switch (kind) {
#define LORA_KIND(Name, word) \
  case GatedKind::k##Name:    \
    return f.template operator()<Name>();
    LORA_GATED_KINDS(LORA_KIND)
#undef LORA_KIND
  }
}

}  // namespace gated

namespace unary {

// Value is y = f(x), Gradient is dx = g·f'(x).
struct Copy {
  static LORA_FORMULA Number Value(Number x, float) { return x; }
  static LORA_FORMULA Number Gradient(Number, Number g, float) { return g; }
};

struct Scale {
  static LORA_FORMULA Number Value(Number x, float alpha) { return x * Of(alpha); }
  static LORA_FORMULA Number Gradient(Number, Number g, float alpha) { return g * Of(alpha); }
};

struct Square {
  static LORA_FORMULA Number Value(Number x, float) { return x * x; }
  static LORA_FORMULA Number Gradient(Number x, Number g, float) { return (x + x) * g; }
};

struct Sqrt {
  static LORA_FORMULA Number Value(Number x, float) { return Root(x); }
  static LORA_FORMULA Number Gradient(Number x, Number g, float) { return g * Of(0.5f) / Root(x); }
};

struct Relu {
  static LORA_FORMULA Number Value(Number x, float) { return IfNegative(x, Of(0), x); }
  static LORA_FORMULA Number Gradient(Number x, Number g, float) { return IfPositive(x, g, Of(0)); }
};

// The exact one, x·Φ(x).
struct Gelu {
  static LORA_FORMULA Number Value(Number x, float) { return x * Normal(x).cdf; }
  static LORA_FORMULA Number Gradient(Number x, Number g, float) {
    const auto normal = Normal(x);
    return g * MulAdd(x, normal.density, normal.cdf);
  }
};

template <class Function>
struct OfGate {
  static LORA_FORMULA Number Value(Number x, float) {
    const auto gate = Function::At(x);
    return gate.z * gate.s;
  }
  static LORA_FORMULA Number Gradient(Number x, Number g, float) {
    const auto gate = Function::At(x);
    return g * gate.s * gate.slope;
  }
};
using Silu = OfGate<gated::Silu>;
using GeluTanh = OfGate<gated::GeluTanh>;

struct Exponential {
  static LORA_FORMULA Number Value(Number x, float) { return Exp(x); }
  static LORA_FORMULA Number Gradient(Number x, Number g, float) { return g * Exp(x); }
};

struct Logarithm {
  static LORA_FORMULA Number Value(Number x, float) { return Log(x); }
  static LORA_FORMULA Number Gradient(Number x, Number g, float) { return g / x; }
};

struct Logistic {
  static LORA_FORMULA Number Value(Number x, float) { return Sigmoid(x).s; }
  static LORA_FORMULA Number Gradient(Number x, Number g, float) {
    const auto sigmoid = Sigmoid(x);
    return g * sigmoid.s * sigmoid.c;
  }
};

// α·tanh(x/α) = α·(σ(v) − σ(−v)) with v = 2x/α, which stays within ±α.
struct Softcap {
  static LORA_FORMULA Number Value(Number x, float alpha) {
    const auto sigmoid = Sigmoid(x * Of(2 / alpha));
    return (sigmoid.s - sigmoid.c) * Of(alpha);
  }
  static LORA_FORMULA Number Gradient(Number x, Number g, float alpha) {
    const auto sigmoid = Sigmoid(x * Of(2 / alpha));
    return g * Of(4) * sigmoid.s * sigmoid.c;
  }
};

// ln(1 + eˣ) = max(x, 0) + ln(1 + e^−|x|). What the sum 1 + e loses is in the quotient.
struct Softplus {
  static LORA_FORMULA Number Value(Number x, float) {
    const Number e = Exp(IfNegative(x, x, Of(0) - x)), sum = Of(1) + e, kept = sum - Of(1);
    return AtLeast(0, x) + IfPositive(kept, Log(sum) * (e / kept), e);
  }
  static LORA_FORMULA Number Gradient(Number x, Number g, float) { return g * Sigmoid(x).s; }
};

// Of |x|: −m/(m + 2) with m = e^z − 1, z = −2|x|. What the difference e − 1 loses is in the
// quotient z / ln e (Kahan's expm1). From |x| = 20 on it is 1.
struct Tanh {
  static LORA_FORMULA Number Value(Number x, float) {
    const Number z = AtLeast(-40, IfNegative(x, x + x, Of(-2) * x)), e = Exp(z);
    const Number kept = e - Of(1), m = IfNegative(kept, kept * (z / Log(e)), z);
    const Number t = m / (m + Of(2));
    return IfNegative(x, t, Of(-1) * t);
  }
  static LORA_FORMULA Number Gradient(Number x, Number g, float) {
    const auto sigmoid = Sigmoid(x + x);
    return g * Of(4) * sigmoid.s * sigmoid.c;
  }
};

// Calls f<struct>() for a kind.
template <class F>
LORA_FORMULA void ForKind(UnaryKind kind, const F& f) {
  switch (kind) {
#define LORA_KIND(Name, word) \
  case UnaryKind::k##Name:    \
    return f.template operator()<Name>();
    LORA_UNARY_KINDS(LORA_KIND)
#undef LORA_KIND
  }
}

}  // namespace unary

namespace binary {

struct Add {
  static LORA_FORMULA Number Value(Number a, Number b) { return a + b; }
};
struct Sub {
  static LORA_FORMULA Number Value(Number a, Number b) { return a - b; }
};
struct Mul {
  static LORA_FORMULA Number Value(Number a, Number b) { return a * b; }
};
struct Div {
  static LORA_FORMULA Number Value(Number a, Number b) { return a / b; }
};
// NaN where one of them is.
struct Maximum {
  static LORA_FORMULA Number Value(Number a, Number b) {
    return IfLess(b, a, a, IfEqual(a, a, b, a));
  }
};
struct Minimum {
  static LORA_FORMULA Number Value(Number a, Number b) {
    return IfLess(a, b, a, IfEqual(a, a, b, a));
  }
};
struct Less {
  static LORA_FORMULA Number Value(Number a, Number b) { return IfLess(a, b, Of(1), Of(0)); }
};
struct Equal {
  static LORA_FORMULA Number Value(Number a, Number b) { return IfEqual(a, b, Of(1), Of(0)); }
};
// a where b is not 0, else 0; the other way round. The sum of both selects by b, also where what is
// left out is not finite.
struct Where {
  static LORA_FORMULA Number Value(Number a, Number b) { return IfEqual(b, Of(0), Of(0), a); }
};
struct WhereNot {
  static LORA_FORMULA Number Value(Number a, Number b) { return IfEqual(b, Of(0), a, Of(0)); }
};
struct Pow {
  static LORA_FORMULA Number Value(Number a, Number b) { return Power(a, b); }
};

template <class F>
LORA_FORMULA void ForKind(BinaryKind kind, const F& f) {
  switch (kind) {
#define LORA_KIND(Name, word) \
  case BinaryKind::k##Name:   \
    return f.template operator()<Name>();
    LORA_BINARY_KINDS(LORA_KIND)
#undef LORA_KIND
  }
}

}  // namespace binary

#endif  // LORA_FORMULA
