#include <vector>

#include "core/ops/shapes.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

struct TransposeCase {
  Shape shape;
  std::vector<int> perm;
};

std::vector<TransposeCase> TransposeCases() {
  return {
      {{}, {}},
      {{5}, {0}},
      {{1, 1}, {1, 0}},
      {{3, 5}, {1, 0}},
      {{3, 5}, {0, 1}},
      {{0, 5}, {1, 0}},
      {{31, 33}, {1, 0}},
      {{32, 64}, {1, 0}},
      {{65, 1}, {1, 0}},
      {{307, 401}, {1, 0}},  // enough for three threads
      {{2, 70, 3, 16}, {0, 2, 1, 3}},
      {{2, 70, 3, 16}, {0, 2, 3, 1}},
      {{2, 70, 3, 16}, {3, 2, 1, 0}},
      {{2, 70, 3, 16}, {2, 3, 0, 1}},
      {{4, 1, 6}, {2, 1, 0}},
      {{3, 64, 65}, {1, 0, 2}},
      {{9, 41, 300}, {0, 2, 1}},
      {{2, 3, 1, 2, 3, 2, 1, 2}, {7, 1, 3, 0, 2, 5, 6, 4}},
      // Whole tiles of a GPU, and pairs at odd and at even addresses.
      {{64, 128}, {1, 0}},
      {{3, 66, 130}, {0, 2, 1}},
      {{3, 66, 130}, {2, 1, 0}},
  };
}

TEST_CASE("transpose: permutations of every rank and dtype, bit for bit") {
  for (const TransposeCase& c : TransposeCases()) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI32}) {
      if (c.shape.numel() > 10 * Tested().many && dtype != DType::kBF16) continue;
      CAPTURE(Text(c.shape));
      CAPTURE(NameOf(dtype));
      const Tensor x = Uniform(dtype, c.shape, 1, -1000, 1000);
      const Tensor expected(dtype, TransposedShape(c.shape, c.perm));
      Run(ReferenceBackend(), TransposeArgs{x, expected, c.perm});
      OnEveryPath(
          [&](Context& context) {
            std::vector<Tensor> y = {Tensor(dtype, expected.shape())};
            RunTested(TransposeArgs{x, y[0], c.perm}, context);
            return y;
          },
          [&](const std::vector<Tensor>& y) { CHECK_IDENTICAL(y[0], expected); });
    }
  }
}

}  // namespace
}  // namespace lora::test
