// accumulate and fill of the CPU backend against the reference.
#include <doctest/doctest.h>

#include "backend/cpu/kernels.h"
#include "test/support/cpu_paths.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<AccumulateArgs> kAccumulate = {cpu::ScratchBytes, cpu::Run};
const Op<FillArgs> kFill = {cpu::ScratchBytes, cpu::Run};

TEST_CASE("accumulate: every size and pair of dtypes") {
  const DType types[] = {DType::kF32, DType::kBF16, DType::kF16};
  for (const DType from : types) {
    for (const DType to : types) {
      for (const int64_t n : OddSizes()) {
        if (n > 2000 && from != to) continue;
        CAPTURE(NameOf(from));
        CAPTURE(NameOf(to));
        CAPTURE(n);
        const Tensor x = Normal(from, {n}, 1), before = Normal(to, {n}, 2);
        Tensor expected = before;
        Run(ReferenceBackend(), AccumulateArgs{x, expected});
        std::vector<double> bounds;
        for (const double e : expected.Values()) {
          bounds.push_back(kU * std::fabs(e) + RoundingBound(to, e));
        }
        OnEveryCpuPath(
            [&](Context& context) {
              std::vector<Tensor> y = {before};
              Run(kAccumulate, AccumulateArgs{x, y[0]}, context);
              return y;
            },
            [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], expected, bounds); });
      }
    }
  }
}

TEST_CASE("fill: every dtype, and whole numbers beyond the range of i32") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI32}) {
    for (const float value : {0.0f, -1.5f, 3.14159274f, 65504.0f, 3e9f, -3e9f}) {
      for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{17}, int64_t{100003}}) {
        CAPTURE(NameOf(dtype));
        CAPTURE(value);
        CAPTURE(n);
        Tensor expected(dtype, {n});
        Run(ReferenceBackend(), FillArgs{value, expected});
        for (const int threads : {1, 3}) {
          cpu::CpuContext context(threads);
          Tensor y(dtype, {n});
          Run(kFill, FillArgs{value, y}, context);
          CHECK_IDENTICAL(y, expected);
          CHECK(y.intact());
        }
      }
    }
  }
}

}  // namespace
}  // namespace lora::test
