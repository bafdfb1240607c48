// Holds seeded numbers against values that never change, and against the laws they follow.
#include "core/ops/random.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "core/maths/philox.h"
#include "test/support/close.h"
#include "test/support/run.h"

namespace lora::test {
namespace {

Tensor Draw(RandomKind kind, int64_t n, uint64_t seed, uint32_t stream, float lo, float hi) {
  Tensor y(DType::kF32, {n});
  Run(ReferenceBackend(), RandomArgs{kind, seed, stream, lo, hi, y});
  return y;
}

TEST_CASE("an element depends on seed, stream and its index only") {
  for (const RandomKind kind : {RandomKind::kUniform, RandomKind::kNormal}) {
    const Tensor all = Draw(kind, 3001, 5, 6, 0, 1);
    RandomArgs args{kind, 5, 6, 0, 1, {}};
    for (const int64_t begin : {0, 1, 2, 3, 4, 1023, 2999}) {
      for (const int64_t count : {0, 1, 2, 5}) {
        const int64_t end = std::min<int64_t>(begin + count, 3001);
        std::vector<float> part(static_cast<size_t>(end - begin));
        RandomElements(args, begin, end, part.data());
        for (int64_t i = begin; i < end; ++i) {
          CHECK(part[static_cast<size_t>(i - begin)] == all.at(i));
        }
      }
    }
    CHECK_FALSE(Identical(all, Draw(kind, 3001, 6, 6, 0, 1)).ok);
    CHECK_FALSE(Identical(all, Draw(kind, 3001, 5, 7, 0, 1)).ok);
  }
}

TEST_CASE("numbers follow the layout that random.h fixes") {
  const PhiloxWords words = Philox4x32(11, {1, 0, 3, 0x52414e44});  // elements 4 to 7
  const double u[4] = {words[0] * 0x1p-32, words[1] * 0x1p-32, words[2] * 0x1p-32,
                       words[3] * 0x1p-32};
  const Tensor uniform = Draw(RandomKind::kUniform, 8, 11, 3, -2, 6);
  for (int i = 0; i < 4; ++i) CHECK(uniform.at(4 + i) == static_cast<float>(-2 + 8 * u[i]));
  const Tensor normal = Draw(RandomKind::kNormal, 8, 11, 3, 1, 2);
  const double radius = std::sqrt(-2 * std::log(1 - u[2])), angle = 2 * std::numbers::pi * u[3];
  CHECK(normal.at(6) == doctest::Approx(1 + 2 * radius * std::cos(angle)).epsilon(1e-6));
  CHECK(normal.at(7) == doctest::Approx(1 + 2 * radius * std::sin(angle)).epsilon(1e-6));
}

TEST_CASE("uniform numbers fill [lo, hi) evenly and never reach hi") {
  const int64_t n = 100000;
  const Tensor y = Draw(RandomKind::kUniform, n, 1, 0, 2, 3);
  double sum = 0, square = 0;
  int64_t outside = 0;
  for (int64_t i = 0; i < n; ++i) {
    outside += !(y.at(i) >= 2 && y.at(i) < 3);
    sum += y.at(i);
    square += (y.at(i) - 2.5) * (y.at(i) - 2.5);
  }
  CHECK(outside == 0);
  CHECK(std::fabs(sum / static_cast<double>(n) - 2.5) <= 4 * std::sqrt(1.0 / 12 / n));
  CHECK(std::fabs(square / static_cast<double>(n) - 1.0 / 12) <= 0.002);
  // In an interval of two floats rounding would often give hi.
  const float hi = std::nextafter(1.0f, 2.0f);
  const Tensor narrow = Draw(RandomKind::kUniform, 100, 1, 0, 1, hi);
  for (int64_t i = 0; i < 100; ++i) CHECK(narrow.at(i) == 1);
}

TEST_CASE("normal numbers have the mean, deviation and tails of the law") {
  const int64_t n = 100000;
  const Tensor y = Draw(RandomKind::kNormal, n, 1, 0, 5, 0.5);
  double sum = 0, square = 0;
  int64_t beyond_one = 0, beyond_two = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double z = (y.at(i) - 5) / 0.5;
    sum += z;
    square += z * z;
    beyond_one += std::fabs(z) > 1;
    beyond_two += std::fabs(z) > 2;
  }
  const double count = static_cast<double>(n);
  CHECK(std::fabs(sum / count) <= 4 / std::sqrt(count));
  CHECK(std::fabs(square / count - 1) <= 4 * std::sqrt(2 / count));
  CHECK(std::fabs(static_cast<double>(beyond_one) / count - 0.31731) <= 0.006);
  CHECK(std::fabs(static_cast<double>(beyond_two) / count - 0.04550) <= 0.003);
}

}  // namespace
}  // namespace lora::test
