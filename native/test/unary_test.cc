// unary and unary_backward of the CPU backend against the reference.
#include "backend/cpu/unary.h"

#include <doctest/doctest.h>

#include <cmath>
#include <numbers>

#include "core/error.h"
#include "test/support/cpu_paths.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<UnaryArgs> kUnary = {cpu::UnaryScratchBytes, cpu::Unary};
const Op<UnaryBackwardArgs> kBackward = {cpu::UnaryBackwardScratchBytes, cpu::UnaryBackward};

constexpr UnaryKind kKinds[] = {UnaryKind::kCopy, UnaryKind::kScale, UnaryKind::kSquare,
                                UnaryKind::kRelu, UnaryKind::kGelu,  UnaryKind::kSilu};
constexpr float kAlpha = -1.7f;

struct Types {
  DType x, y;
};
constexpr Types kTypes[] = {{DType::kF32, DType::kF32},  {DType::kBF16, DType::kBF16},
                            {DType::kF16, DType::kF16},  {DType::kF32, DType::kBF16},
                            {DType::kBF16, DType::kF32}, {DType::kF16, DType::kBF16},
                            {DType::kF32, DType::kF16}};

// Rounding errors of the formula, in units of kU times this.
double Steps(UnaryKind kind) {
  return kind == UnaryKind::kCopy                               ? 0
         : kind == UnaryKind::kGelu || kind == UnaryKind::kSilu ? 8
                                                                : 1;
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// The terms of f'(x), without cancellation between them.
double GradientTerms(UnaryKind kind, double x) {
  switch (kind) {
    case UnaryKind::kGelu:
      return 0.5 * std::erfc(-x / std::numbers::sqrt2) +
             std::fabs(x) * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
    case UnaryKind::kSilu:
      return Sigmoid(x) * (1 + std::fabs(x) * Sigmoid(-x));
    case UnaryKind::kSquare:
      return 2 * std::fabs(x);
    default:
      return 2;
  }
}

void CheckForward(UnaryKind kind, const Tensor& x, DType to) {
  Tensor expected(to, x.shape());
  Run(ReferenceBackend(), &Backend::unary, UnaryArgs{kind, kAlpha, x, expected});
  std::vector<double> bounds;
  for (const double e : expected.Values()) {
    bounds.push_back(Steps(kind) * kU * std::fabs(e) + RoundingBound(to, e));
  }
  OnEveryCpuPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(to, x.shape())};
        Run(kUnary, UnaryArgs{kind, kAlpha, x, y[0]}, context);
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

TEST_CASE("unary: every function, dtype and size agrees with the reference") {
  for (const UnaryKind kind : kKinds) {
    for (const Types types : kTypes) {
      for (const int64_t n : OddSizes()) {
        if (n > 2000 && types.x != types.y) continue;
        CAPTURE(static_cast<int>(kind));
        CAPTURE(NameOf(types.x));
        CAPTURE(NameOf(types.y));
        CAPTURE(n);
        CheckForward(kind, Normal(types.x, {n}, 1, 3), types.y);
      }
    }
  }
}

TEST_CASE("unary_backward: every function, dtype and size agrees with the reference") {
  for (const UnaryKind kind : kKinds) {
    for (const Types types : kTypes) {
      for (const int64_t n : OddSizes()) {
        if (n > 2000 && types.x != types.y) continue;
        CAPTURE(static_cast<int>(kind));
        CAPTURE(NameOf(types.x));
        CAPTURE(n);
        const Tensor x = Normal(types.x, {n}, 2, 3), g = Normal(types.y, {n}, 3);
        Tensor expected(types.x, {n});
        Run(ReferenceBackend(), &Backend::unary_backward,
            UnaryBackwardArgs{kind, kAlpha, x, g, expected});
        std::vector<double> bounds;
        for (int64_t i = 0; i < n; ++i) {
          bounds.push_back(8 * kU * std::fabs(g.at(i)) * GradientTerms(kind, x.at(i)) +
                           RoundingBound(types.x, expected.at(i)));
        }
        OnEveryCpuPath(
            [&](Context& context) {
              std::vector<Tensor> dx = {Tensor(types.x, {n})};
              Run(kBackward, UnaryBackwardArgs{kind, kAlpha, x, g, dx[0]}, context);
              return dx;
            },
            [&](const std::vector<Tensor>& dx) { CHECK_CLOSE(dx[0], expected, bounds); });
      }
    }
  }
}

TEST_CASE("unary: gelu and silu stay accurate in their tails") {
  std::vector<double> values;
  for (double x = -40; x <= 40; x += 0.0131) values.push_back(x);
  const int64_t n = static_cast<int64_t>(values.size());
  for (const UnaryKind kind : {UnaryKind::kGelu, UnaryKind::kSilu}) {
    CheckForward(kind, Of(DType::kF32, {n}, values), DType::kF32);
  }
}

// All 65536 of a 2-byte type.
Tensor EveryPattern(DType dtype) {
  Tensor x(dtype, {65536});
  for (int64_t i = 0; i < 65536; ++i) x.view().as<uint16_t>()[i] = static_cast<uint16_t>(i);
  return x;
}

// The same bits, but any NaN for a NaN.
void CheckCast(const Tensor& x, DType to) {
  Tensor expected(to, x.shape());
  Run(ReferenceBackend(), &Backend::unary, UnaryArgs{UnaryKind::kCopy, 1, x, expected});
  OnEveryCpuPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(to, x.shape())};
        Run(kUnary, UnaryArgs{UnaryKind::kCopy, 1, x, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) {
        int64_t wrong = 0;
        for (int64_t i = 0; i < x.numel(); ++i) {
          const double a = y[0].at(i), e = expected.at(i);
          const bool same = a == e && std::signbit(a) == std::signbit(e);
          if (!same && !(std::isnan(a) && std::isnan(e))) ++wrong;
        }
        CHECK(wrong == 0);
      });
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
  std::vector<uint32_t> patterns;
  for (uint32_t high = 0; high < 65536; high += 7) {
    for (const uint32_t low : {0x0000u, 0x0001u, 0x0fffu, 0x1000u, 0x1001u, 0x3000u, 0x7fffu,
                               0x8000u, 0x8001u, 0xffffu}) {
      patterns.push_back(high << 16 | low);
    }
  }
  Tensor x(DType::kF32, {static_cast<int64_t>(patterns.size())});
  for (size_t i = 0; i < patterns.size(); ++i) x.view().as<uint32_t>()[i] = patterns[i];
  for (const DType to : {DType::kBF16, DType::kF16, DType::kI32}) {
    CAPTURE(NameOf(to));
    CheckCast(x, to);
  }
}

TEST_CASE("unary: whole numbers are copied and cast") {
  const Tensor x = Ints({5}, {0, -1, 7, 2147483647, -2147483647 - 1});
  for (const DType to : {DType::kI32, DType::kF32, DType::kBF16, DType::kF16}) CheckCast(x, to);
}

TEST_CASE("unary: a copy keeps the bits of a NaN, relu lets it through") {
  Tensor x = Of(DType::kF32, {3}, {std::nan(""), -1, 2});
  OnEveryCpuPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(DType::kF32, {3}), Tensor(DType::kF32, {3})};
        Run(kUnary, UnaryArgs{UnaryKind::kRelu, 1, x, y[0]}, context);
        Run(kUnary, UnaryArgs{UnaryKind::kCopy, 1, x, y[1]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) {
        CHECK(std::isnan(y[0].at(0)));
        CHECK(y[0].at(1) == 0);
        CHECK(y[0].at(2) == 2);
        CHECK_IDENTICAL(y[1], x);
      });
}

TEST_CASE("unary: arithmetic on whole numbers is refused") {
  cpu::CpuContext context(1);
  const Tensor x = Ints({1}, {1});
  Tensor y(DType::kF32, {1});
  CHECK_THROWS_AS(cpu::Unary(UnaryArgs{UnaryKind::kSquare, 1, x, y}, {}, context), Error);
}

}  // namespace
}  // namespace lora::test
