#include <doctest/doctest.h>

#include <cmath>

#include "test/support/cuda_paths.h"

namespace lora::test {
namespace {

Tensor Draw(const RandomArgs& like, int64_t n) {
  const Tensor y(DType::kF32, {n});
  RandomArgs args = like;
  args.y = y;
  Run(ReferenceBackend(), args);
  return y;
}

TEST_CASE("cuda random: the bits of the reference") {
  for (const RandomKind kind : {RandomKind::kUniform, RandomKind::kNormal}) {
    for (const RandomArgs& like :
         {RandomArgs{kind, 0x123456789abcULL, 7, -0.25f, 0.5f, {}},
          RandomArgs{kind, 1, 0, 0, 1, {}}, RandomArgs{kind, ~0ULL, ~0u, 3, 0.02f, {}}}) {
      for (int64_t n : CudaSizes()) {
        if (n == 2048) n = 30001;
        CAPTURE(static_cast<int>(kind));
        CAPTURE(n);
        const Tensor expected = Draw(like, n);
        OnEveryCudaPath(
            [&](Context& context) {
              std::vector<Tensor> y = {Tensor(DType::kF32, {n})};
              RandomArgs args = like;
              args.y = y[0];
              Run(MirroredCuda(), args, context);
              return y;
            },
            [&](const std::vector<Tensor>& y) { CHECK_IDENTICAL(y[0], expected); });
      }
    }
  }
}

TEST_CASE("cuda random: uniform numbers never reach hi") {
  MirrorContext context = NthContext(0);
  // Intervals of two floats: rounding would often give hi.
  for (const float lo : {1.0f, -1.0f, 0.0f}) {
    const float hi = std::nextafter(lo, 5.0f);
    const Tensor y(DType::kF32, {100});
    Run(MirroredCuda(), RandomArgs{RandomKind::kUniform, 1, 0, lo, hi, y}, context);
    for (int64_t i = 0; i < 100; ++i) CHECK(y.at(i) == lo);
  }
}

}  // namespace
}  // namespace lora::test
