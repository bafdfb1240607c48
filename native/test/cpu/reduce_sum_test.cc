// reduce_sum of the CPU backend against the reference.
#include <doctest/doctest.h>

#include "backend/cpu/kernels.h"
#include "test/support/cpu_paths.h"
#include "test/support/reduce_sum_cases.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<ReduceSumArgs> kReduceSum = {cpu::ScratchBytes, cpu::Run};

void CheckCase(const Tensor& x, const Shape& shape, DType to) {
  CAPTURE(Text(x.shape()));
  CAPTURE(Text(shape));
  CAPTURE(NameOf(x.dtype()));
  CAPTURE(NameOf(to));
  Tensor expected(to, shape);
  Run(ReferenceBackend(), ReduceSumArgs{x, expected});
  const std::vector<double> bounds = ReduceSumBounds(x, expected);
  OnEveryCpuPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(to, shape)};
        Run(kReduceSum, ReduceSumArgs{x, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], expected, bounds); });
}

TEST_CASE("reduce_sum: everything, of every size") {
  for (const int64_t n : OddSizes()) CheckCase(Normal(DType::kF32, {n}, 1), {}, DType::kF32);
  CheckCase(Normal(DType::kF32, {}, 1), {}, DType::kF32);
  CheckCase(Normal(DType::kBF16, {3, 1001}, 1), {}, DType::kF32);
  CheckCase(Normal(DType::kF16, {3, 1001}, 1), {1, 1}, DType::kF32);
}

TEST_CASE("reduce_sum: some dimensions, leading, trailing and between") {
  for (const ReduceSumCase& c : ReduceSumCases()) {
    CheckCase(Normal(DType::kF32, c.x, 2), c.y, DType::kF32);
    CheckCase(Normal(DType::kBF16, c.x, 3), c.y, DType::kF32);
    CheckCase(Normal(DType::kBF16, c.x, 4), c.y, DType::kBF16);
  }
}

TEST_CASE("reduce_sum: large terms that cancel leave the small ones") {
  const Tensor x = CancellingTerms();
  OnEveryCpuPath(
      [&](Context& context) {
        std::vector<Tensor> y = {Tensor(DType::kF32, {})};
        Run(kReduceSum, ReduceSumArgs{x, y[0]}, context);
        return y;
      },
      [&](const std::vector<Tensor>& y) { CHECK(y[0].at(0) == 2048); });
}

}  // namespace
}  // namespace lora::test
