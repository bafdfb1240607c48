// Tests the errors of exp, log, pow and exp2, and what the environment chooses.
#include "simt/numerics.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "test/simt/function_kernels.h"

namespace lora::simt {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

Numerics Erring(Errors errors, uint64_t seed = 0) {
  Numerics numerics;
  numerics.errors = errors;
  numerics.seed = seed;
  return numerics;
}

std::vector<double> FunctionsOf(const std::vector<float>& x, const Numerics& numerics) {
  std::vector<double> y(x.size() * kFunctions);
  Buffer in(x.size() * 4, "in"), out(y.size() * 8, "out");
  in.Upload(x.data());
  Options options;
  options.numerics = numerics;
  const Result result = Functions(options, x.size(), in.as<float>(), out.as<double>());
  CHECK_MESSAGE(result.reports.empty(), result.Text());
  out.Download(y.data());
  return y;
}

// Counts the numbers of the function's dtype from one to the other.
int64_t StepsBetween(size_t function, double from, double to) {
  const auto place = [&](double d) {
    const double a = std::fabs(d);
    const auto bits = function < 4 ? int64_t{std::bit_cast<int32_t>(static_cast<float>(a))}
                                   : std::bit_cast<int64_t>(a);
    return std::signbit(d) ? -bits : bits;
  };
  return place(to) - place(from);
}

std::vector<float> Arguments() {
  std::vector<float> x;
  for (int i = 0; i < 256; ++i) x.push_back(0.37f + static_cast<float>(i) * 0.29f);
  return x;
}

// Restores a variable of the environment.
struct Variable {
  Variable(const char* name, const char* value) : name_(name) {
    const char* before = std::getenv(name);
    if (before != nullptr) before_ = before;
    had_ = before != nullptr;
    setenv(name, value, 1);
  }
  ~Variable() {
    if (had_) {
      setenv(name_, before_.c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::string before_;
  bool had_;
};

}  // namespace

TEST_CASE("exp, log, pow and exp2 err by the ulps that CUDA states, and no further") {
  const std::vector<float> x = Arguments();
  const std::vector<double> exact = FunctionsOf(x, {});
  for (size_t i = 0; i < x.size(); ++i) {
    const double* y = &exact[i * kFunctions];
    const double d = x[i];
    CHECK(y[0] == double{std::exp(x[i])});
    CHECK(y[1] == double{std::log(x[i])});
    CHECK(y[2] == double{std::pow(x[i], 0.7f)});
    CHECK(y[3] == double{std::exp2(x[i])});
    CHECK(y[4] == std::exp(d));
    CHECK(y[5] == std::log(d));
  }
  const int64_t most[kFunctions] = {1, 1, 4, 2, 1, 1};
  const auto steps_of = [&](const Numerics& numerics, size_t function) {
    const std::vector<double> y = FunctionsOf(x, numerics);
    std::set<int64_t> steps;
    for (size_t i = function; i < y.size(); i += kFunctions)
      steps.insert(StepsBetween(function, exact[i], y[i]));
    return steps;
  };
  for (size_t function = 0; function < kFunctions; ++function) {
    CAPTURE(function);
    CHECK(steps_of(Erring(Errors::kUp), function) == std::set<int64_t>{most[function]});
    CHECK(steps_of(Erring(Errors::kDown), function) == std::set<int64_t>{-most[function]});
    std::set<int64_t> all;
    for (int64_t step = -most[function]; step <= most[function]; ++step) all.insert(step);
    CHECK(steps_of(Erring(Errors::kDrawn, 3), function) == all);
  }
}

TEST_CASE("an error that is drawn is one of the argument, the function and the seed") {
  const std::vector<float> x = Arguments();
  const std::vector<double> drawn = FunctionsOf(x, Erring(Errors::kDrawn, 3));
  CHECK(FunctionsOf(x, Erring(Errors::kDrawn, 3)) == drawn);
  CHECK(FunctionsOf(x, Erring(Errors::kDrawn, 4)) != drawn);
  std::vector<float> reversed(x.rbegin(), x.rend());
  const std::vector<double> other = FunctionsOf(reversed, Erring(Errors::kDrawn, 3));
  for (size_t i = 0; i < x.size(); ++i)
    for (size_t f = 0; f < kFunctions; ++f)
      REQUIRE(other[(x.size() - 1 - i) * kFunctions + f] == drawn[i * kFunctions + f]);
  // exp and log of one argument err apart.
  const std::vector<double> exact = FunctionsOf(x, {});
  bool apart = false;
  for (size_t i = 0; i < drawn.size(); i += kFunctions)
    apart |= StepsBetween(0, exact[i], drawn[i]) != StepsBetween(1, exact[i + 1], drawn[i + 1]);
  CHECK(apart);
}

TEST_CASE("what is exact on every GPU stays, whatever the errors") {
  for (const Errors errors : {Errors::kNone, Errors::kUp, Errors::kDown, Errors::kDrawn}) {
    const std::vector<double> y = FunctionsOf({0, 1, kInf, -200}, Erring(errors, 7));
    CHECK(y[0] == 1);
    CHECK(y[1] == -kInf);
    CHECK(y[2] == 0);
    CHECK(y[3] == 1);
    CHECK(y[kFunctions + 1] == 0);
    CHECK(y[kFunctions + 2] == 1);
    CHECK(y[2 * kFunctions] == kInf);
    CHECK(y[2 * kFunctions + 3] == kInf);
    CHECK(y[3 * kFunctions] == 0);
    CHECK(FunctionsOf({-127}, Erring(errors))[3] == 0);  // ex2.approx.ftz
  }
  const Numerics up = Erring(Errors::kUp), down = Erring(Errors::kDown);
  constexpr float kMax = std::numeric_limits<float>::max();
  CHECK(WithError(kMax, 1, 0, up) == kMax);
  CHECK(WithError(-1.0f, 1, 0, up) == std::nextafter(-1.0f, 0.0f));
  CHECK(WithError(-1.0f, 1, 0, down) == std::nextafter(-1.0f, -2.0f));
  CHECK(WithError(1.0, 2, 0, down) == 1 - 0x1p-52);
  CHECK(WithError(0x1p-149f, 2, 0, down) == 0x1p-149f);
  CHECK(std::isnan(WithError(std::nanf(""), 1, 0, up)));
}

TEST_CASE("the environment chooses how mma adds and functions err") {
  Numerics other;
  other.tensor_core = TensorCore::kF32;
  other.errors = Errors::kDown;
  {
    const Variable mma("LORA_SIMT_MMA", ""), ulps("LORA_SIMT_ULPS", "");
    CHECK(NumericsOfEnvironment(other).tensor_core == TensorCore::kF32);
    CHECK(NumericsOfEnvironment(other).errors == Errors::kDown);
    CHECK(NumericsOfEnvironment({}).tensor_core == TensorCore::kAmpere);
    CHECK(NumericsOfEnvironment({}).errors == Errors::kNone);
  }
  const auto model_of = [&](const char* text) {
    const Variable mma("LORA_SIMT_MMA", text);
    return NumericsOfEnvironment(other).tensor_core;
  };
  CHECK(model_of("ampere") == TensorCore::kAmpere);
  CHECK(model_of("hopper") == TensorCore::kHopper);
  CHECK(model_of("f32") == TensorCore::kF32);
  CHECK_THROWS_WITH_AS(
      model_of("volta"),
      "[device] expected LORA_SIMT_MMA to be ampere, hopper or f32 but received volta", Error);
  const auto errors_of = [](const char* text) {
    const Variable ulps("LORA_SIMT_ULPS", text);
    return NumericsOfEnvironment({});
  };
  CHECK(errors_of("up").errors == Errors::kUp);
  CHECK(errors_of("down").errors == Errors::kDown);
  CHECK(errors_of("17").errors == Errors::kDrawn);
  CHECK(errors_of("17").seed == 17);
  for (const char* text : {"-1", "1.5", "both", "1234567890123456789"})
    CHECK_THROWS_AS(errors_of(text), Error);
}

}  // namespace lora::simt
