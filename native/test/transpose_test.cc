// transpose of the CPU backend against the reference: bit for bit.
#include "backend/cpu/transpose.h"

#include <doctest/doctest.h>

#include "core/shapes.h"
#include "test/support/cpu_paths.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<TransposeArgs> kTranspose = {cpu::TransposeScratchBytes, cpu::Transpose};

TEST_CASE("transpose: permutations of every rank and dtype") {
  struct Case {
    Shape shape;
    std::vector<int> perm;
  };
  const std::vector<Case> cases = {
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
  };
  for (const Case& c : cases) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI32}) {
      CAPTURE(Text(c.shape));
      CAPTURE(NameOf(dtype));
      const Tensor x = Uniform(dtype, c.shape, 1, -1000, 1000);
      Tensor expected(dtype, TransposedShape(c.shape, c.perm));
      Run(ReferenceBackend(), &Backend::transpose, TransposeArgs{x, expected, c.perm});
      for (const int threads : {1, 2, 3}) {
        cpu::CpuContext context(threads);
        Tensor y(dtype, expected.shape());
        Run(kTranspose, TransposeArgs{x, y, c.perm}, context);
        CHECK_IDENTICAL(y, expected);
        CHECK(y.intact());
      }
    }
  }
}

}  // namespace
}  // namespace lora::test
