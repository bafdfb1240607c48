// The kinds of the elementwise ops unary, binary and gated: each has a line in a list, from which
// its enumerator, its word and the loops of every backend follow, and a struct with its formulas.
//
// A backend includes the formulas where it has defined what they are written in, so they have no
// include guard: Number, with the operators of arithmetic; LORA_FORMULA, by which functions are
// declared;
//   Of(float)                              the number
//   IfNegative(x, a, b), IfPositive(…)     a where x < 0, or x > 0, else b, also where x is NaN
//   AtLeast(low, x), AtMost(high, x)       low or high beyond them; NaN stays
//   MulAdd(a, b, c)                        a·b + c
//   Root(x), Exp(x), Log(x)                √x, eˣ, ln x
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
  KIND(Logistic, "sigmoid")

#define LORA_BINARY_KINDS(KIND) \
  KIND(Add, "add")              \
  KIND(Sub, "sub")              \
  KIND(Mul, "mul")              \
  KIND(Div, "div")

#define LORA_GATED_KINDS(KIND) \
  KIND(Silu, "silu")           \
  KIND(GeluTanh, "gelu_tanh")

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

// x·σ(x)
struct Silu {
  template <class N>
  static LORA_FORMULA Gate<N> At(N x) {
    const auto sigmoid = Sigmoid(x);
    return {sigmoid.x, sigmoid.s, MulAdd(sigmoid.x, sigmoid.c, Of(1))};
  }
};

// x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2 = x·σ(v) with v = x·(a + b·x²). In f32, σ(v) is 0 and 1
// long before ±16.
struct GeluTanh {
  static constexpr float kA = 1.59576912f, kB = 0.0713548163f;
  template <class N>
  static LORA_FORMULA Gate<N> At(N x) {
    const N z = AtLeast(-16, x), near = AtMost(16, z), square = near * near;
    const auto sigmoid = Sigmoid(near * MulAdd(square, Of(kB), Of(kA)));
    return {z, sigmoid.s, MulAdd(near * sigmoid.c, MulAdd(square, Of(3 * kB), Of(kA)), Of(1))};
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
