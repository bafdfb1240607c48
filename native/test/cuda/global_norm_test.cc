// global_norm and clip_by_norm of the CUDA backend against the reference.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "test/support/close.h"
#include "test/support/run.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

constexpr double kU = UnitRoundoff(DType::kF32);

std::vector<TensorView> Views(const std::vector<Tensor>& tensors) {
  return {tensors.begin(), tensors.end()};
}

Tensor NormOf(const std::vector<Tensor>& tensors, Context& context) {
  Tensor norm(DType::kF32, {1});
  Run(MirroredCuda(), GlobalNormArgs{Views(tensors), norm}, context);
  CHECK(norm.intact());
  return norm;
}

TEST_CASE("cuda global_norm: of no, one and many tensors of odd sizes") {
  std::vector<std::vector<int64_t>> cases = {
      {}, {0}, {1}, {1, 0, 3, 7, 15, 16, 17, 64, 65, 1000}, {16383, 16384, 16385, 40003}};
  cases.emplace_back(400, 3);  // more than one launch takes
  int turn = 0;
  for (const auto& sizes : cases) {
    CAPTURE(sizes.size());
    std::vector<Tensor> tensors;
    for (const int64_t n : sizes) tensors.push_back(Normal(DType::kF32, {n}, tensors.size(), 1e-3));
    Tensor expected(DType::kF32, {1});
    Run(ReferenceBackend(), GlobalNormArgs{Views(tensors), expected});
    Tensor first;
    for (const int64_t skew : {0, 1}) {
      MirrorContext context = NthContext(turn++, skew);
      const Tensor norm = NormOf(tensors, context);
      // Both sum in double: no more than the last rounding may differ.
      CHECK_CLOSE(norm, expected, (Tolerance{0, 2 * kU}));
      if (!first) first = norm;
      CHECK_IDENTICAL(norm, first);
    }
  }
}

TEST_CASE("cuda global_norm: each element counts once") {
  std::vector<Tensor> tensors = {Full(DType::kF32, {16384 + 5}, 0), Full(DType::kF32, {1029}, 0)};
  MirrorContext context = NthContext(7);
  for (Tensor& tensor : tensors) {
    const int64_t last = tensor.numel() - 1;
    for (const int64_t at : {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{1024}, last - 1, last}) {
      tensor.Set(at, 3);
      CHECK(NormOf(tensors, context).at(0) == 3);
      tensor.Set(at, 0);
    }
  }
}

TEST_CASE("cuda global_norm: squares that overflow f32 do not overflow here; NaN and ∞ are seen") {
  MirrorContext context = NthContext(1);
  CHECK_CLOSE(NormOf({Full(DType::kF32, {100}, 1e30)}, context), Full(DType::kF32, {1}, 1e31),
              (Tolerance{0, 4 * kU}));
  Tensor x = Full(DType::kF32, {100}, 1);
  x.Set(57, std::numeric_limits<double>::infinity());
  CHECK(std::isinf(NormOf({x}, context).at(0)));
  x.Set(58, std::nan(""));
  CHECK(std::isnan(NormOf({x}, context).at(0)));
}

TEST_CASE(
    "cuda clip_by_norm: scales what is too long, leaves the rest, spreads a norm that is not "
    "finite") {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  int turn = 0;
  for (const double norm_value : {0.0, 0.5, 1.05, 2.0, 1e20, kInfinity, std::nan("")}) {
    for (const float max_norm : {0.0f, 1.0f}) {
      CAPTURE(norm_value);
      CAPTURE(max_norm);
      const std::vector<Tensor> before = {Normal(DType::kF32, {1003}, 1),
                                          Normal(DType::kF32, {0}, 2),
                                          Normal(DType::kF32, {9001}, 3)};
      const Tensor norm = Full(DType::kF32, {1}, norm_value);
      std::vector<Tensor> expected = before, x = before;
      Run(ReferenceBackend(), ClipByNormArgs{Views(expected), norm, max_norm});
      MirrorContext context = NthContext(turn, turn % 2);
      ++turn;
      Run(MirroredCuda(), ClipByNormArgs{Views(x), norm, max_norm}, context);
      for (size_t s = 0; s < x.size(); ++s) {
        CHECK(x[s].intact());
        if (!std::isfinite(norm_value)) {
          for (const double value : x[s].Values()) REQUIRE(std::isnan(value));
        } else if (norm_value < max_norm) {
          CHECK_IDENTICAL(x[s], before[s]);
        } else {
          CHECK_CLOSE(x[s], expected[s], (Tolerance{1e-37, 4 * kU}));
        }
      }
    }
  }
}

}  // namespace
}  // namespace lora::test
