// transpose of the CPU backend against the reference: bit for bit.
#include <doctest/doctest.h>

#include "backend/cpu/kernels.h"
#include "core/ops/shapes.h"
#include "test/support/cpu_paths.h"
#include "test/support/tensors.h"
#include "test/support/transpose_cases.h"

namespace lora::test {
namespace {

const Op<TransposeArgs> kTranspose = {cpu::ScratchBytes, cpu::Run};

TEST_CASE("transpose: permutations of every rank and dtype") {
  for (const TransposeCase& c : TransposeCases()) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI32}) {
      CAPTURE(Text(c.shape));
      CAPTURE(NameOf(dtype));
      const Tensor x = Uniform(dtype, c.shape, 1, -1000, 1000);
      Tensor expected(dtype, TransposedShape(c.shape, c.perm));
      Run(ReferenceBackend(), TransposeArgs{x, expected, c.perm});
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
