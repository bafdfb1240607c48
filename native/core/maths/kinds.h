// The kinds of the elementwise ops unary and binary: each has a line in a list, from which its
// enumerator, its word and the loops of every backend follow, and a struct with its formulas.
//
// A backend includes the formulas where it has defined what they are written in, so they have no
// include guard: Number, with the operators of arithmetic; LORA_FORMULA, by which functions are
// declared;
//   Of(float)                              the number
//   IfNegative(x, a, b), IfPositive(…)     a where x < 0, or x > 0, else b, also where x is NaN
//   AtLeast(low, x), AtMost(high, x)       low or high beyond them; NaN stays
//   MulAdd(a, b, c)                        a·b + c
//   Root(x)                                √x
//   Sigmoid(x)                             s = σ(x), c = 1 − σ(x), and the x to multiply them by
//   Normal(x)                              the distribution function, cdf, and the density
#ifndef LORA_CORE_MATHS_KINDS_H_
#define LORA_CORE_MATHS_KINDS_H_

// KIND(name of the struct, word in JavaScript). From Gelu on they take long.
#define LORA_UNARY_KINDS(KIND) \
  KIND(Copy, "copy")           \
  KIND(Scale, "scale")         \
  KIND(Square, "square")       \
  KIND(Sqrt, "sqrt")           \
  KIND(Relu, "relu")           \
  KIND(Gelu, "gelu")           \
  KIND(Silu, "silu")           \
  KIND(GeluTanh, "gelu_tanh")

#define LORA_BINARY_KINDS(KIND) \
  KIND(Add, "add")              \
  KIND(Sub, "sub")              \
  KIND(Mul, "mul")              \
  KIND(Div, "div")

#endif  // LORA_CORE_MATHS_KINDS_H_

#ifdef LORA_FORMULA

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

// x·σ(x)
struct Silu {
  static LORA_FORMULA Number Value(Number x, float) {
    const auto sigmoid = Sigmoid(x);
    return sigmoid.x * sigmoid.s;
  }
  static LORA_FORMULA Number Gradient(Number x, Number g, float) {
    const auto sigmoid = Sigmoid(x);
    return g * sigmoid.s * MulAdd(sigmoid.x, sigmoid.c, Of(1));
  }
};

// x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2 = x·σ(v) with v = x·(a + b·x²). In f32, σ(v) is 0 and 1
// long before ±16.
struct GeluTanh {
  static constexpr float kA = 1.59576912f, kB = 0.0713548163f;
  static LORA_FORMULA Number Value(Number x, float) {
    const Number z = AtLeast(-16, x);
    return z * Sigmoid(z * MulAdd(z * z, Of(kB), Of(kA))).s;
  }
  static LORA_FORMULA Number Gradient(Number x, Number g, float) {
    const Number z = AtMost(16, AtLeast(-16, x)), square = z * z;
    const auto sigmoid = Sigmoid(z * MulAdd(square, Of(kB), Of(kA)));
    return g * sigmoid.s * MulAdd(z * sigmoid.c, MulAdd(square, Of(3 * kB), Of(kA)), Of(1));
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
