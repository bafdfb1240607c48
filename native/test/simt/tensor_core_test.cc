// Tests that the emulated mma.sync rounds as tensor cores do: Fasi, Higham, Mikaitis, Pranesh,
// "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 7:e330, 2021.
#include "simt/tensor_core.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <tuple>
#include <vector>

#include "core/maths/dtype.h"
#include "test/simt/self_test_kernels.h"

namespace lora::simt {
namespace {

constexpr double kU = UnitRoundoff(DType::kF32);

// Returns c + Σ a[k]·b[k] of mma.sync, for every row and column the same.
float MmaOf(float c, const std::vector<float>& a, const std::vector<float>& b, bool bf16,
            TensorCore model = TensorCore::kAmpere) {
  std::vector<uint32_t> words(320, 0);
  auto* const halves = reinterpret_cast<uint16_t*>(words.data());
  const auto bits = [&](float value) { return bf16 ? BF16FromF32(value) : F16FromF32(value); };
  for (size_t k = 0; k < a.size(); ++k) {
    for (size_t row = 0; row < 16; ++row) halves[row * 16 + k] = bits(a[k]);
    for (size_t n = 0; n < 8; ++n) halves[256 + k * 8 + n] = bits(b[k]);
  }
  for (size_t i = 0; i < 128; ++i) words[192 + i] = std::bit_cast<uint32_t>(c);
  Buffer in(words.size() * 4, "in"), out(128 * 4, "out");
  in.Upload(words.data());
  Options options;
  options.numerics.tensor_core = model;
  Queue queue(options);
  LaunchSelfTest(bf16 ? device::SelfTest::kMmaBF16 : device::SelfTest::kMmaF16, in.as<uint32_t>(),
                 out.as<uint32_t>(), queue);
  const Result result = queue.Synchronize();
  CHECK_MESSAGE(result.reports.empty(), result.Text());
  std::vector<float> got(128);
  out.Download(got.data());
  for (const float one : got)
    CHECK(std::bit_cast<uint32_t>(one) == std::bit_cast<uint32_t>(got[0]));
  return got[0];
}

// What additions in f32 give, each rounded to nearest.
float Nearest(float c, const std::vector<float>& a, const std::vector<float>& b) {
  for (size_t k = 0; k < a.size(); ++k) c += a[k] * b[k];
  return c;
}

TEST_CASE("the emulated mma aligns, truncates and rounds once per step") {
  constexpr float k12 = 0x1p-12f;
  using Values = std::vector<float>;
  const struct {
    const char* what;
    float c;
    Values a, b;
    float truncated, nearest;
  } cases[] = {
      {"a sum is rounded towards zero", 1, {1.5f * k12}, {k12}, 1, 1 + 0x1p-23f},
      {"a negative one too", -1, {1.5f * k12}, {-k12}, -1, -1 - 0x1p-23f},
      {"one bit below an f32 counts", 1, Values(8, k12), Values(8, k12), 1 + 0x1p-21f, 1},
      {"the next bit does not", 1, Values(8, 1.5f * k12), Values(8, k12), 1 + 0x1p-21f,
       1 + 0x1p-20f},
      {"the accumulator is aligned too", 3, {4096, 4096}, {8192, -8192}, 2, 4},
      {"the order in a step is none", 1, {4096, 4096}, {4096, -4096}, 1, 0},
  };
  for (const auto& c : cases) {
    CAPTURE(c.what);
    for (const bool bf16 : {false, true}) {
      CHECK(MmaOf(c.c, c.a, c.b, bf16) == c.truncated);
      CHECK(Nearest(c.c, c.a, c.b) == c.nearest);
    }
  }
  // A step has eight products: 1 + 2⁻²⁴ after the first one, truncated to 1 before the second.
  Values a(16, 0), b(16, k12);
  a[0] = a[8] = k12;
  CHECK(MmaOf(1, a, b, true) == 1);
  a[8] = 0;
  a[1] = k12;
  CHECK(MmaOf(1, a, b, true) == 1 + 0x1p-23f);
}

TEST_CASE("the emulated mma of an H100 takes sixteen products on a finer grid") {
  constexpr float k12 = 0x1p-12f, k13 = 0x1p-13f;
  using Values = std::vector<float>;
  const auto mma = [](float c, const Values& a, const Values& b) {
    CHECK(MmaOf(c, a, b, false, TensorCore::kHopper) == MmaOf(c, a, b, true, TensorCore::kHopper));
    return MmaOf(c, a, b, true, TensorCore::kHopper);
  };
  CHECK(mma(1, {1.5f * k12}, {k12}) == 1);  // rounded towards zero
  CHECK(mma(-1, {1.5f * k12}, {-k12}) == -1);
  // The first and the ninth product are of one step.
  Values a(16, 0), b(16, k12);
  a[0] = a[8] = k12;
  CHECK(mma(1, a, b) == 1 + 0x1p-23f);
  CHECK(MmaOf(1, a, b, true) == 1);
  // Two bits below an f32 count, the next one does not.
  CHECK(mma(1, Values(16, k12), Values(16, k13)) == 1 + 0x1p-21f);
  CHECK(MmaOf(1, Values(16, k12), Values(16, k13), true) == 1);
  CHECK(mma(1, Values(16, k13), Values(16, k13)) == 1);
  // All terms at once use every bit of the sum.
  const float most = F32FromBF16(0x3fff);  // 2 − 2⁻⁷
  const float all = mma(1.75f, Values(16, most), Values(16, most));
  CHECK(all == 1.75f + 16 * most * most);
}

TEST_CASE("the emulated mma of additions in f32 rounds each of them") {
  constexpr float k12 = 0x1p-12f;
  using Values = std::vector<float>;
  for (const auto& [c, a, b] : {std::tuple<float, Values, Values>{1, {1.5f * k12}, {k12}},
                                {3, {4096, 4096}, {8192, -8192}},
                                {1, Values(16, 1.5f * k12), Values(16, k12)}})
    CHECK(MmaOf(c, a, b, true, TensorCore::kF32) == Nearest(c, a, b));
}

// How a step of a model differs from that of another.
struct Model {
  TensorCore model;
  int products, grid_bits;
  double cut_of_step;  // in units of kU of the largest term
};
constexpr Model kModels[] = {{TensorCore::kAmpere, 8, 24, 8}, {TensorCore::kHopper, 16, 25, 8}};

// A step by the paper's words, in double: `terms` are the products and the accumulator.
float Step(const std::vector<double>& terms, int largest, int grid_bits) {
  const double grid = std::ldexp(1, largest - grid_bits);
  double sum = 0;
  for (const double term : terms) sum += grid * std::trunc(term / grid);
  auto rounded = static_cast<float>(sum);
  if (std::isfinite(rounded) && std::fabs(double{rounded}) > std::fabs(sum))
    rounded = std::nextafter(rounded, 0.0f);
  return rounded;
}

// Operands of 16 bits whose exponents are from -range to range, and accumulators.
struct Operands {
  float x[16][16], y[16][8], z[16][8];
  Operands(uint64_t seed, int range, bool f16) {
    std::mt19937_64 random(seed);
    const auto value = [&](bool half) {
      const auto mantissa = static_cast<float>(1 + (random() >> 11) * 0x1p-53);
      int exponent = static_cast<int>(random() % static_cast<uint64_t>(2 * range + 1)) - range;
      exponent = std::min(exponent, half && f16 ? 14 : 126);
      const float drawn = std::ldexp(random() % 2 ? mantissa : -mantissa, exponent);
      if (random() % 16 == 0) return 0.0f;
      if (!half) return drawn;
      return f16 ? F32FromF16(F16FromF32(drawn)) : F32FromBF16(BF16FromF32(drawn));
    };
    for (auto& row : x)
      for (float& one : row) one = value(true);
    for (auto& row : y)
      for (float& one : row) one = value(true);
    for (auto& row : z)
      for (float& one : row) one = value(false);
  }
};

int ExponentOf(double value, int least) {
  return value == 0 ? -10000 : std::max(std::ilogb(value), least);
}

TEST_CASE("the emulated mma does what the paper says, and keeps to the bound of numerics.md") {
  const struct {
    int range;
    bool f16;
  } kinds[] = {{3, false}, {3, true},   {12, false}, {12, true},
               {24, true}, {60, false}, {140, false}};
  for (size_t i = 0; i < std::size(kinds) * std::size(kModels); ++i) {
    const auto& kind = kinds[i / std::size(kModels)];
    const Model& model = kModels[i % std::size(kModels)];
    CAPTURE(kind.range);
    CAPTURE(kind.f16);
    CAPTURE(model.products);
    const int least = kind.f16 ? -14 : -126;
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      const Operands o(seed, kind.range, kind.f16);
      Operands got = o;
      MultiplyAdd(got.x, got.y, got.z, kind.f16, model.model);
      for (int row = 0; row < 16; ++row) {
        for (int n = 0; n < 8; ++n) {
          float expected = o.z[row][n];
          double exact = o.z[row][n], bound = 0;
          for (int k0 = 0; k0 < 16; k0 += model.products) {
            std::vector<double> terms{expected};
            int largest = ExponentOf(expected, -126);
            double most = std::fabs(expected);
            for (int k = k0; k < k0 + model.products; ++k) {
              terms.push_back(double{o.x[row][k]} * o.y[k][n]);
              most = std::max(most, std::fabs(terms.back()));
              exact += terms.back();
              largest =
                  std::max(largest, ExponentOf(o.x[row][k], least) + ExponentOf(o.y[k][n], least));
            }
            if (largest >= 128) largest = 10000;  // beyond f32
            expected =
                largest > 1000 || largest < -1000 ? 0 : Step(terms, largest, model.grid_bits);
            bound += model.cut_of_step * kU * most + 2 * kU * std::fabs(expected);
            if (largest > 1000) bound = std::numeric_limits<double>::infinity();
          }
          if (std::isinf(bound)) continue;
          REQUIRE(got.z[row][n] == expected);
          if (kind.range <= 24) REQUIRE(std::fabs(got.z[row][n] - exact) <= bound * (1 + 64 * kU));
        }
      }
    }
  }
}

TEST_CASE("the emulated mma: numbers that are not finite, and sums beyond f32") {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  CHECK(std::isnan(MmaOf(0, {kInf}, {0}, true)));
  CHECK(std::isnan(MmaOf(kInf, {-1}, {kInf}, true)));
  CHECK(std::isnan(MmaOf(0, {std::nanf("")}, {1}, false)));
  CHECK(MmaOf(1, {kInf}, {2}, false) == kInf);
  CHECK(MmaOf(-kInf, {1}, {2}, true) == -kInf);
  CHECK(MmaOf(0, {0x1p100f}, {0x1p100f}, true) == kInf);
  CHECK(MmaOf(0, {0x1p-70f}, {0x1.8p-79f}, true) == 0x1p-149f);  // subnormal, and truncated
  CHECK(std::bit_cast<uint32_t>(MmaOf(0, {0}, {0}, true)) == 0);
}

}  // namespace
}  // namespace lora::simt
