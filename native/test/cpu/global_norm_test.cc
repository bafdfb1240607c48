// global_norm and clip_by_norm of the CPU backend against the reference.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "backend/cpu/kernels.h"
#include "test/support/cpu_paths.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<GlobalNormArgs> kNorm = {cpu::ScratchBytes, cpu::Run};
const Op<ClipByNormArgs> kClip = {cpu::ScratchBytes, cpu::Run};

std::vector<TensorView> Views(const std::vector<Tensor>& tensors) {
  return {tensors.begin(), tensors.end()};
}

TEST_CASE("global_norm: of no, one and many tensors of odd sizes") {
  std::vector<std::vector<int64_t>> cases = {
      {}, {0}, {1}, {1, 0, 3, 7, 15, 16, 17, 64, 65, 1000}, {16383, 16384, 16385, 100003}};
  for (const auto& sizes : cases) {
    std::vector<Tensor> tensors;
    for (const int64_t n : sizes) tensors.push_back(Normal(DType::kF32, {n}, tensors.size(), 1e-3));
    Tensor expected(DType::kF32, {1});
    Run(ReferenceBackend(), GlobalNormArgs{Views(tensors), expected});
    OnEveryCpuPath(
        [&](Context& context) {
          std::vector<Tensor> norm = {Tensor(DType::kF32, {1})};
          Run(kNorm, GlobalNormArgs{Views(tensors), norm[0]}, context);
          return norm;
        },
        // Both sum in double: no more than the last rounding may differ.
        [&](const std::vector<Tensor>& norm) {
          CHECK_CLOSE(norm[0], expected, (Tolerance{0, 2 * kU}));
        });
  }
}

TEST_CASE("global_norm: squares that overflow f32 do not overflow here") {
  const std::vector<Tensor> tensors = {Full(DType::kF32, {100}, 1e30)};
  OnEveryCpuPath(
      [&](Context& context) {
        std::vector<Tensor> norm = {Tensor(DType::kF32, {1})};
        Run(kNorm, GlobalNormArgs{Views(tensors), norm[0]}, context);
        return norm;
      },
      [&](const std::vector<Tensor>& norm) {
        CHECK_CLOSE(norm[0], Full(DType::kF32, {1}, 1e31), (Tolerance{0, 4 * kU}));
      });
}

TEST_CASE(
    "clip_by_norm: scales what is too long, leaves the rest, spreads a norm that is not finite") {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const double norm_value : {0.0, 0.5, 2.0, 1e20, kInfinity, std::nan("")}) {
    for (const float max_norm : {0.0f, 1.0f}) {
      CAPTURE(norm_value);
      CAPTURE(max_norm);
      const std::vector<Tensor> before = {Normal(DType::kF32, {1003}, 1),
                                          Normal(DType::kF32, {0}, 2),
                                          Normal(DType::kF32, {40000}, 3)};
      const Tensor norm = Full(DType::kF32, {1}, norm_value);
      std::vector<Tensor> expected = before;
      Run(ReferenceBackend(), ClipByNormArgs{Views(expected), norm, max_norm});
      OnEveryCpuPath(
          [&](Context& context) {
            std::vector<Tensor> x = before;
            Run(kClip, ClipByNormArgs{Views(x), norm, max_norm}, context);
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
