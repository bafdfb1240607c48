#include <cmath>
#include <vector>

#include "test/support/tested.h"

namespace lora::test {
namespace {

TEST_CASE("random: the bits of the reference") {
  for (const RandomKind kind : {RandomKind::kUniform, RandomKind::kNormal}) {
    for (const RandomArgs& like :
         {RandomArgs{kind, 0x123456789abcULL, 7, -0.25f, 0.5f, {}},
          RandomArgs{kind, 1, 0, 0, 1, {}}, RandomArgs{kind, ~0ULL, ~0u, 3, 0.02f, {}}}) {
      std::vector<int64_t> sizes = Tested().sizes;
      sizes.push_back(30001);
      for (const int64_t n : sizes) {
        CAPTURE(static_cast<int>(kind));
        CAPTURE(n);
        RandomArgs args = like;
        const Tensor expected(DType::kF32, {n});
        args.y = expected;
        Run(ReferenceBackend(), args);
        OnEveryPath(
            [&](Context& context) {
              std::vector<Tensor> y = {Tensor(DType::kF32, {n})};
              args.y = y[0];
              RunTested(args, context);
              return y;
            },
            [&](const std::vector<Tensor>& y) { CHECK_IDENTICAL(y[0], expected); });
      }
    }
  }
}

TEST_CASE("random: uniform numbers never reach hi") {
  // In intervals of two floats rounding would often give hi.
  for (const float lo : {1.0f, -1.0f, 0.0f}) {
    const float hi = std::nextafter(lo, 5.0f);
    OnEveryPath(
        [&](Context& context) {
          std::vector<Tensor> y = {Tensor(DType::kF32, {100})};
          RunTested(RandomArgs{RandomKind::kUniform, 1, 0, lo, hi, y[0]}, context);
          return y;
        },
        [&](const std::vector<Tensor>& y) {
          for (int64_t i = 0; i < 100; ++i) CHECK(y[0].at(i) == lo);
        });
  }
}

}  // namespace
}  // namespace lora::test
