#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "core/error.h"
#include "test/support/gate_bounds.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

const std::vector<UnaryKind> kKinds = EachKind<UnaryKind>(kUnaryKinds);
constexpr float kAlpha = -1.7f;

struct Types {
  DType x, y;
};
constexpr Types kTypes[] = {{DType::kF32, DType::kF32},  {DType::kBF16, DType::kBF16},
                            {DType::kF16, DType::kF16},  {DType::kF32, DType::kBF16},
                            {DType::kBF16, DType::kF32}, {DType::kF16, DType::kBF16},
                            {DType::kF32, DType::kF16}};

// Returns seeded numbers of the function's domain.
Tensor UnaryInput(UnaryKind kind, DType dtype, int64_t n, uint64_t seed) {
  const Tensor x = Normal(dtype, {n}, seed, 3);
  std::vector<double> values = x.Values();
  if (kind == UnaryKind::kExponential) {
    // f16 has their e^x, times g as well.
    for (double& value : values) value = std::min(value, 8.0);
    return Of(dtype, {n}, values);
  }
  if (kind != UnaryKind::kSqrt && kind != UnaryKind::kLogarithm) return x;
  for (double& value : values) value = std::fabs(value) + 0.01;
  return Of(dtype, {n}, values);
}

// Returns the rounding errors of the formula at x, in units of kU.
double Steps(UnaryKind kind, double x) {
  switch (kind) {
    case UnaryKind::kCopy:
    case UnaryKind::kSoftcap:
      return 0;
    case UnaryKind::kGelu:
    case UnaryKind::kExponential:
    case UnaryKind::kLogarithm:
    case UnaryKind::kLogistic:
    case UnaryKind::kSoftplus:
      return 8;
    case UnaryKind::kTanh:  // e^z, ln, two quotients, a product, a sum
      return 12;
    case UnaryKind::kSilu:
      return StepsOf(GatedKind::kSilu, x);
    case UnaryKind::kGeluTanh:
      return StepsOf(GatedKind::kGeluTanh, x);
    default:
      return 1;
  }
}

std::vector<double> UnaryBounds(UnaryKind kind, const Tensor& x, const Tensor& expected) {
  std::vector<double> bounds;
  for (int64_t i = 0; i < x.numel(); ++i) {
    const double e = expected.at(i);
    bounds.push_back(Steps(kind, x.at(i)) * kU * std::fabs(e) + RoundingBound(expected.dtype(), e) +
                     (kind == UnaryKind::kGeluTanh ? 1e-36 : 0) +  // σ may be flushed to 0
                     // Of σ(v) − σ(−v), which cancel.
                     (kind == UnaryKind::kSoftcap ? 8 * kU * std::fabs(kAlpha) : 0));
  }
  return bounds;
}

// Returns the terms of f'(x), without cancellation between them.
double GradientTerms(UnaryKind kind, double x) {
  switch (kind) {
    case UnaryKind::kGelu:
      return 0.5 * std::erfc(-x / std::numbers::sqrt2) +
             std::fabs(x) * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
    case UnaryKind::kSilu:
      return GradientTermsOf(GatedKind::kSilu, x);
    case UnaryKind::kGeluTanh:
      return GradientTermsOf(GatedKind::kGeluTanh, x);
    case UnaryKind::kSquare:
      return 2 * std::fabs(x);
    case UnaryKind::kSqrt:
      return 0.5 / std::sqrt(x);
    case UnaryKind::kExponential:
      return std::exp(x);
    case UnaryKind::kLogarithm:
      return 1 / x;
    case UnaryKind::kLogistic:
      return Sigmoid(x) * Sigmoid(-x);
    case UnaryKind::kSoftcap: {
      const double v = 2 * x / kAlpha;  // whose rounding changes σ(±v)
      return 4 * Sigmoid(v) * Sigmoid(-v) * (1 + std::fabs(v));
    }
    case UnaryKind::kTanh:
      return 4 * Sigmoid(2 * x) * Sigmoid(-2 * x) * (1 + std::fabs(2 * x));
    case UnaryKind::kSoftplus:
      return Sigmoid(x);
    default:
      return 2;
  }
}

std::vector<double> UnaryBackwardBounds(UnaryKind kind, const Tensor& x, const Tensor& g,
                                        const Tensor& expected) {
  std::vector<double> bounds;
  for (int64_t i = 0; i < x.numel(); ++i) {
    // A factor of g·x may be flushed to 0 below the normal range of f32.
    bounds.push_back(
        8 * kU * std::fabs(g.at(i)) * GradientTerms(kind, x.at(i)) +
        FlushedOf(kind == UnaryKind::kGeluTanh ? GatedKind::kGeluTanh : GatedKind::kSilu) *
            std::fabs(g.at(i) * x.at(i)) +
        RoundingBound(expected.dtype(), expected.at(i)));
  }
  return bounds;
}

// Returns numbers from −40 to 40, where gelu and silu have their tails.
Tensor TailInputs() {
  std::vector<double> values;
  for (double x = -40; x <= 40; x += 0.0131) values.push_back(x);
  return Of(DType::kF32, {static_cast<int64_t>(values.size())}, values);
}

// The emulator reports values with the bits of an unset register.
bool LooksUnset(uint32_t high_bits) {
  return Tested().emulated && (high_bits == 0xfefe || high_bits == 0xfeff);
}

// Returns all 65536 values of a 2-byte type.
Tensor EveryPattern(DType dtype) {
  Tensor x(dtype, {65536});
  for (uint32_t i = 0; i < 65536; ++i)
    x.view().as<uint16_t>()[i] = LooksUnset(i) ? uint16_t{0} : static_cast<uint16_t>(i);
  return x;
}

// Returns f32 values at every kind of rounding boundary of the narrower types.
Tensor RoundingBoundaries() {
  std::vector<uint32_t> patterns;
  for (uint32_t high = 0; high < 65536; high += 7) {
    if (LooksUnset(high) || LooksUnset(high + 1)) continue;  // a cast may round up
    for (const uint32_t low : {0x0000u, 0x0001u, 0x0fffu, 0x1000u, 0x1001u, 0x3000u, 0x7fffu,
                               0x8000u, 0x8001u, 0xffffu}) {
      patterns.push_back(high << 16 | low);
    }
  }
  Tensor x(DType::kF32, {static_cast<int64_t>(patterns.size())});
  for (size_t i = 0; i < patterns.size(); ++i) x.view().as<uint32_t>()[i] = patterns[i];
  return x;
}

// Counts values that differ; any NaN equals any NaN, but −0 is not 0.
int64_t WrongValues(const Tensor& actual, const Tensor& expected) {
  int64_t wrong = 0;
  for (int64_t i = 0; i < expected.numel(); ++i) {
    const double a = actual.at(i), e = expected.at(i);
    const bool same = a == e && std::signbit(a) == std::signbit(e);
    if (!same && !(std::isnan(a) && std::isnan(e))) ++wrong;
  }
  return wrong;
}

void CheckForward(UnaryKind kind, const Tensor& x, DType to) {
  const Tensor expected(to, x.shape());
  Run(ReferenceBackend(), UnaryArgs{kind, kAlpha, x, expected});
  const std::vector<double> bounds = UnaryBounds(kind, x, expected);
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(to, x.shape())};
        RunTested(UnaryArgs{kind, kAlpha, x, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) {
        if (kind == UnaryKind::kCopy) {
          CHECK_IDENTICAL(y[0], expected);
        } else {
          CHECK_CLOSE(y[0], expected, bounds);
        }
      });
}

void CheckBackward(UnaryKind kind, const Tensor& x, const Tensor& g) {
  const Tensor expected(x.dtype(), x.shape());
  Run(ReferenceBackend(), UnaryBackwardArgs{kind, kAlpha, x, g, expected});
  const std::vector<double> bounds = UnaryBackwardBounds(kind, x, g, expected);
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> dx = {Tensor(x.dtype(), x.shape())};
        RunTested(UnaryBackwardArgs{kind, kAlpha, x, g, dx[0]}, context);
        return dx;
      },
      [&](const std::vector<Tensor>& dx) { CHECK_CLOSE(dx[0], expected, bounds); });
}

// Calls fn(kind, types, n) for every function, pair of dtypes and size.
template <class Fn>
void ForEachCase(const Fn& fn) {
  for (const UnaryKind kind : kKinds) {
    for (const Types types : kTypes) {
      for (const int64_t n : Tested().sizes) {
        if (n > 5000 && types.x != types.y) continue;
        CAPTURE(static_cast<int>(kind));
        CAPTURE(NameOf(types.x));
        CAPTURE(NameOf(types.y));
        CAPTURE(n);
        fn(kind, types, n);
      }
    }
  }
}

TEST_CASE("unary: every function, dtype and size agrees with the reference") {
  ForEachCase([](UnaryKind kind, Types types, int64_t n) {
    CheckForward(kind, UnaryInput(kind, types.x, n, 1), types.y);
  });
}

TEST_CASE("unary_backward: every function, dtype and size agrees with the reference") {
  ForEachCase([](UnaryKind kind, Types types, int64_t n) {
    CheckBackward(kind, UnaryInput(kind, types.x, n, 2), Normal(types.y, {n}, 3));
  });
}

TEST_CASE("unary: gelus, silu, softplus and their gradients stay accurate in their tails") {
  const Tensor x = TailInputs();
  for (const UnaryKind kind :
       {UnaryKind::kGelu, UnaryKind::kSilu, UnaryKind::kGeluTanh, UnaryKind::kSoftplus}) {
    CheckForward(kind, x, DType::kF32);
    CheckBackward(kind, x, Full(DType::kF32, x.shape(), 1));
  }
}

TEST_CASE("unary: gelu_tanh is the formula with the tanh, whose ends are x and 0") {
  const Tensor x = Of(DType::kF32, {7}, {-INFINITY, -30, -1.5, 0, 0.25, 2, 1e30});
  Tensor expected(DType::kF32, {7});
  expected.Set(0, 0);
  for (int64_t i = 1; i < 7; ++i) {
    const double at = x.at(i);
    expected.Set(
        i,
        at / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (at + 0.044715 * at * at * at))));
  }
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> out = {Tensor(DType::kF32, {7}), Tensor(DType::kF32, {7})};
        RunTested(UnaryArgs{UnaryKind::kGeluTanh, 1, x, out[0]}, context);
        const Tensor ones = Full(DType::kF32, {7}, 1);
        RunTested(UnaryBackwardArgs{UnaryKind::kGeluTanh, 1, x, ones, out[1]}, context);
        return out;
      },
      [&](const std::vector<Tensor>& out) {
        CHECK_CLOSE(out[0], expected, (Tolerance{1e-30, 4e-7}));
        CHECK(std::fabs(out[1].at(0)) < 1e-30);
        CHECK(out[1].at(6) == 1);
      });
}

TEST_CASE("unary: softcap is the formula with the tanh, and its ends are the cap") {
  const Tensor x = Of(DType::kF32, {8}, {-INFINITY, -1e30, -40, -1.5, 0, 0.25, 29, 3e4});
  Tensor expected(DType::kF32, {8}), slopes(DType::kF32, {8});
  for (int64_t i = 0; i < 8; ++i) {
    const double part = std::tanh(x.at(i) / 30);
    expected.Set(i, 30 * part);
    slopes.Set(i, 1 - part * part);
  }
  const Tensor ones = Full(DType::kF32, {8}, 1);
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> out = {Tensor(DType::kF32, {8}), Tensor(DType::kF32, {8})};
        RunTested(UnaryArgs{UnaryKind::kSoftcap, 30, x, out[0]}, context);
        RunTested(UnaryBackwardArgs{UnaryKind::kSoftcap, 30, x, ones, out[1]}, context);
        return out;
      },
      [&](const std::vector<Tensor>& out) {
        CHECK_CLOSE(out[0], expected, (Tolerance{4e-6, 0}));
        CHECK_CLOSE(out[1], slopes, (Tolerance{1e-6, 0}));
      });
}

TEST_CASE("unary: tanh keeps the digits of small numbers, and its ends are ±1") {
  std::vector<double> values = {-INFINITY, -1e30, -20, -9, -1, 0, 1, 9, 20, 1e30, INFINITY};
  for (double x = 1e-30; x < 30; x *= 1.37) values.insert(values.end(), {x, -x});
  values.push_back(std::nan(""));
  const int64_t n = static_cast<int64_t>(values.size());
  const Tensor x = Of(DType::kF32, {n}, values);
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(DType::kF32, {n})};
        RunTested(UnaryArgs{UnaryKind::kTanh, 1, x, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) {
        for (int64_t i = 0; i + 1 < n; ++i) {
          CAPTURE(x.at(i));
          const double expected = std::tanh(x.at(i));
          CHECK(std::fabs(y[0].at(i) - expected) <= 6e-7 * std::fabs(expected));
        }
        CHECK(std::isnan(y[0].at(n - 1)));
      });
}

TEST_CASE("unary: exp, log, sigmoid and softplus at the ends of their ranges") {
  const double inf = INFINITY, nan = std::nan("");
  const Tensor x = Of(DType::kF32, {8}, {-inf, -100, -1, 0, 1e-42, 1, inf, nan});
  const std::pair<UnaryKind, std::vector<double>> kinds[] = {
      {UnaryKind::kExponential, {0, 0, std::exp(-1.0), 1, 1, std::exp(1.0), inf, nan}},
      {UnaryKind::kLogarithm, {nan, nan, nan, -inf, std::log(x.at(4)), 0, inf, nan}},
      {UnaryKind::kLogistic, {0, 0, Sigmoid(-1), 0.5, 0.5, Sigmoid(1), 1, nan}},
      {UnaryKind::kSoftplus,
       {0, 0, std::log1p(std::exp(-1.0)), std::log(2.0), std::log(2.0), std::log1p(std::exp(1.0)),
        inf, nan}}};
  for (const auto& [kind, expected] : kinds) {
    CAPTURE(static_cast<int>(kind));
    OnEveryPath(
        [&](Context& context) {
          std::vector<Tensor> y = {Tensor(DType::kF32, {8})};
          RunTested(UnaryArgs{kind, 1, x, y[0]}, context);
          return y;
        },
        [&](const std::vector<Tensor>& y) {
          for (int64_t i = 0; i < 8; ++i) {
            CAPTURE(i);
            const double a = y[0].at(i), e = expected[i];
            if (std::isnan(e)) {
              CHECK(std::isnan(a));
            } else if (std::isinf(e)) {
              CHECK(a == e);
            } else {
              CHECK(std::fabs(a - e) <= 1e-37 + 1e-6 * std::fabs(e));
            }
          }
        });
  }
}

// Requires the same values, but accepts any NaN for a NaN.
void CheckCast(const Tensor& x, DType to) {
  const Tensor expected(to, x.shape());
  Run(ReferenceBackend(), UnaryArgs{UnaryKind::kCopy, 1, x, expected});
  OnPathsInTurn(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(to, x.shape())};
        RunTested(UnaryArgs{UnaryKind::kCopy, 1, x, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) { CHECK(WrongValues(y[0], expected) == 0); });
}

TEST_CASE(
    "unary: casts of every bf16 and f16 value are exact, subnormals and infinities included") {
  for (const DType from : {DType::kBF16, DType::kF16}) {
    for (const DType to : {DType::kF32, DType::kBF16, DType::kF16, DType::kI32}) {
      CAPTURE(NameOf(from));
      CAPTURE(NameOf(to));
      CheckCast(EveryPattern(from), to);
    }
  }
}

TEST_CASE("unary: casts round to nearest even at every kind of boundary") {
  const Tensor x = RoundingBoundaries();
  for (const DType to : {DType::kBF16, DType::kF16, DType::kI32}) {
    CAPTURE(NameOf(to));
    CheckCast(x, to);
  }
}

TEST_CASE("unary: whole numbers are copied and cast, rounded once") {
  std::vector<int32_t> values = {0, -1, 7, 2147483647, -2147483647 - 1};
  // These are ties between two bf16 values, and their neighbors.
  for (const int32_t middle : {0x01010000 >> 1, 0x40400000, 0x7f400000, 0x02020000 + 0x10000}) {
    for (const int32_t off : {-1, 0, 1}) {
      values.push_back(middle + off);
      values.push_back(-middle - off);
    }
  }
  for (int32_t v = 1; v > 0 && v < 1 << 30; v = v * 3 + 1) values.push_back(v);
  const Tensor x = Ints({static_cast<int64_t>(values.size())}, values);
  for (const DType to : {DType::kI32, DType::kF32, DType::kBF16, DType::kF16}) CheckCast(x, to);
}

TEST_CASE("unary: a copy keeps the bits of a NaN, relu lets it through") {
  const Tensor x = Of(DType::kF32, {3}, {std::nan(""), -1, 2});
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(DType::kF32, {3}), Tensor(DType::kF32, {3})};
        RunTested(UnaryArgs{UnaryKind::kRelu, 1, x, y[0]}, context);
        RunTested(UnaryArgs{UnaryKind::kCopy, 1, x, y[1]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) {
        CHECK(std::isnan(y[0].at(0)));
        CHECK(y[0].at(1) == 0);
        CHECK(y[0].at(2) == 2);
        CHECK_IDENTICAL(y[1], x);
      });
}

TEST_CASE("unary: y may be x") {
  for (const UnaryKind kind : kKinds) {
    const Tensor x = UnaryInput(kind, DType::kBF16, 515, 1), expected(DType::kBF16, {515});
    Run(ReferenceBackend(), UnaryArgs{kind, kAlpha, x, expected});
    OnEveryPath(
        [&](Context& context) {
          std::vector<Tensor> y = {x};
          RunTested(UnaryArgs{kind, kAlpha, y[0], y[0]}, context);
          return y;
        },
        [&](const std::vector<Tensor>& y) {
          CHECK_CLOSE(y[0], expected, UnaryBounds(kind, x, expected));
        });
  }
}

TEST_CASE("unary: arithmetic on whole numbers is refused") {
  const Tensor x = Ints({1}, {1}), y(DType::kF32, {1});
  CHECK_THROWS_AS(RunUnchecked(Tested().backend.op<UnaryArgs>(),
                               UnaryArgs{UnaryKind::kSquare, 1, x, y}, *NextContext()),
                  Error);
}

}  // namespace
}  // namespace lora::test
