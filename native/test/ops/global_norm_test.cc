#include <cmath>
#include <limits>
#include <vector>

#include "test/support/tested.h"

namespace lora::test {
namespace {

std::vector<TensorView> Views(const std::vector<Tensor>& tensors) {
  return {tensors.begin(), tensors.end()};
}

// Checks the norm of the tensors on every path.
void CheckNorm(const std::vector<Tensor>& tensors,
               const std::function<void(const Tensor&)>& check) {
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> norm = {Tensor(DType::kF32, {1})};
        RunTested(GlobalNormArgs{Views(tensors), norm[0]}, context);
        return norm;
      },
      [&](const std::vector<Tensor>& norm) { check(norm[0]); });
}

TEST_CASE("global_norm: of no, one and many tensors of odd sizes") {
  std::vector<std::vector<int64_t>> cases = {
      {}, {0}, {1}, {1, 0, 3, 7, 15, 16, 17, 64, 65, 1000}, {16383, 16384, 16385, 40003}};
  cases.emplace_back(400, 3);  // more than one launch takes
  if (!Tested().emulated) cases.push_back({16383, 100003});
  for (const auto& sizes : cases) {
    CAPTURE(sizes.size());
    std::vector<Tensor> tensors;
    for (const int64_t n : sizes) tensors.push_back(Normal(DType::kF32, {n}, tensors.size(), 1e-3));
    const Tensor expected(DType::kF32, {1});
    Run(ReferenceBackend(), GlobalNormArgs{Views(tensors), expected});
    // Both sum in double: no more than the last rounding may differ.
    CheckNorm(tensors,
              [&](const Tensor& norm) { CHECK_CLOSE(norm, expected, (Tolerance{0, 2 * kU})); });
  }
}

TEST_CASE("global_norm: each element counts once") {
  std::vector<Tensor> tensors = {Full(DType::kF32, {16384 + 5}, 0), Full(DType::kF32, {1029}, 0)};
  const auto context = NextContext();
  for (Tensor& tensor : tensors) {
    const int64_t last = tensor.numel() - 1;
    for (const int64_t at : {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{1024}, last - 1, last}) {
      CAPTURE(at);
      const Tensor norm(DType::kF32, {1});
      tensor.Set(at, 3);
      RunTested(GlobalNormArgs{Views(tensors), norm}, *context);
      CHECK(norm.at(0) == 3);
      tensor.Set(at, 0);
    }
  }
}

TEST_CASE("global_norm: squares that overflow f32 do not overflow here; NaN and ∞ are seen") {
  CheckNorm({Full(DType::kF32, {100}, 1e30)}, [](const Tensor& norm) {
    CHECK_CLOSE(norm, Full(DType::kF32, {1}, 1e31), (Tolerance{0, 4 * kU}));
  });
  Tensor x = Full(DType::kF32, {100}, 1);
  x.Set(57, std::numeric_limits<double>::infinity());
  CheckNorm({x}, [](const Tensor& norm) { CHECK(std::isinf(norm.at(0))); });
  x.Set(58, std::nan(""));
  CheckNorm({x}, [](const Tensor& norm) { CHECK(std::isnan(norm.at(0))); });
}

TEST_CASE(
    "clip_by_norm: scales what is too long, leaves the rest, spreads a norm that is not finite") {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::vector<Tensor> before = {Normal(DType::kF32, {1003}, 1), Normal(DType::kF32, {0}, 2),
                                      Normal(DType::kF32, {Tested().emulated ? 9001 : 40000}, 3)};
  for (const double norm_value : {0.0, 0.5, 1.05, 2.0, 1e20, kInfinity, std::nan("")}) {
    for (const float max_norm : {0.0f, 1.0f}) {
      CAPTURE(norm_value);
      CAPTURE(max_norm);
      const Tensor norm = Full(DType::kF32, {1}, norm_value);
      const std::vector<Tensor> expected = before;
      Run(ReferenceBackend(), ClipByNormArgs{Views(expected), norm, max_norm});
      OnEveryPath(
          [&](Context& context) {
            std::vector<Tensor> x = before;
            RunTested(ClipByNormArgs{Views(x), norm, max_norm}, context);
            return x;
          },
          [&](const std::vector<Tensor>& x) {
            for (size_t s = 0; s < x.size(); ++s) {
              if (!std::isfinite(norm_value)) {
                for (const double value : x[s].Values()) REQUIRE(std::isnan(value));
              } else if (norm_value < max_norm) {
                CHECK_IDENTICAL(x[s], before[s]);
              } else {
                CHECK_CLOSE(x[s], expected[s], (Tolerance{1e-37, 4 * kU}));
              }
            }
          });
    }
  }
}

}  // namespace
}  // namespace lora::test
