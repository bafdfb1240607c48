#include <doctest/doctest.h>

#include "test/support/close.h"
#include "test/support/run.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

TEST_CASE("cuda fill: every element has the value, rounded to the dtype") {
  int turn = 0;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t n : {0, 1, 3, 7, 8, 9, 255, 1025}) {
      for (const int64_t skew : {0, 1}) {
        CAPTURE(n);
        CAPTURE(skew);
        MirrorContext context = NthContext(turn++, skew);
        const Tensor y(dtype, {n});
        Run(MirroredCuda(), FillArgs{1.1f, y}, context);
        CHECK_IDENTICAL(y, Full(dtype, {n}, 1.1f));
        CHECK(y.intact());
      }
    }
  }
}

TEST_CASE("cuda fill: whole numbers, also beyond the range of i32") {
  int turn = 0;
  for (const DType dtype : {DType::kI32, DType::kF32, DType::kF16}) {
    for (const float value : {0.0f, -1.5f, 3.14159274f, 65504.0f, 3e9f, -3e9f}) {
      CAPTURE(NameOf(dtype));
      CAPTURE(value);
      const Tensor y(dtype, {1027}), expected(dtype, {1027});
      Run(ReferenceBackend(), FillArgs{value, expected});
      MirrorContext context = NthContext(turn, turn % 2);
      ++turn;
      Run(MirroredCuda(), FillArgs{value, y}, context);
      CHECK_IDENTICAL(y, expected);
      CHECK(y.intact());
    }
  }
}

}  // namespace
}  // namespace lora::test
