#include "test/support/tested.h"

namespace lora::test {
namespace {

void CheckFill(DType dtype, int64_t n, float value, const Tensor& expected) {
  CAPTURE(NameOf(dtype));
  CAPTURE(n);
  CAPTURE(value);
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(dtype, {n})};
        RunTested(FillArgs{value, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) { CHECK_IDENTICAL(y[0], expected); });
}

TEST_CASE("fill: every element has the value, rounded to the dtype") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
    for (const int64_t n : {0, 1, 3, 7, 8, 9, 17, 255, 1025})
      CheckFill(dtype, n, 1.1f, Full(dtype, {n}, 1.1f));
}

TEST_CASE("fill: every dtype, and whole numbers beyond the range of i32") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI32}) {
    for (const float value : {0.0f, -1.5f, 3.14159274f, 65504.0f, 3e9f, -3e9f}) {
      for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{17}, int64_t{1027}, Tested().many}) {
        const Tensor expected(dtype, {n});
        Run(ReferenceBackend(), FillArgs{value, expected});
        CheckFill(dtype, n, value, expected);
      }
    }
  }
}

}  // namespace
}  // namespace lora::test
