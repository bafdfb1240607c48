#include <doctest/doctest.h>

#include "core/ops/shapes.h"
#include "test/support/cuda_paths.h"
#include "test/support/transpose_cases.h"

namespace lora::test {
namespace {

TEST_CASE("cuda transpose: permutations of every rank and dtype, bit for bit") {
  std::vector<TransposeCase> cases = TransposeCases();
  // Whole tiles, and pairs at odd and even addresses.
  cases.push_back({{64, 128}, {1, 0}});
  cases.push_back({{3, 66, 130}, {0, 2, 1}});
  cases.push_back({{3, 66, 130}, {2, 1, 0}});
  for (const TransposeCase& c : cases) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI32}) {
      if (c.shape.numel() > 50000 && dtype != DType::kBF16) continue;
      CAPTURE(Text(c.shape));
      CAPTURE(NameOf(dtype));
      const Tensor x = Uniform(dtype, c.shape, 1, -1000, 1000);
      const Tensor expected(dtype, TransposedShape(c.shape, c.perm));
      Run(ReferenceBackend(), TransposeArgs{x, expected, c.perm});
      OnEveryCudaPath(
          [&](Context& context) {
            std::vector<Tensor> y = {Tensor(dtype, expected.shape())};
            Run(MirroredCuda(), TransposeArgs{x, y[0], c.perm}, context);
            return y;
          },
          [&](const std::vector<Tensor>& y) { CHECK_IDENTICAL(y[0], expected); });
    }
  }
}

}  // namespace
}  // namespace lora::test
