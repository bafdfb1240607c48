// matmul on the CPU against sums in double: whole numbers, so that results are exact.
#include <doctest/doctest.h>

#include "backend/cpu/context.h"
#include "backend/cpu/kernels.h"
#include "test/support/close.h"
#include "test/support/matmul_cases.h"
#include "test/support/run.h"
#include "test/support/simd_targets.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<MatmulArgs> kMatmul = {cpu::ScratchBytes, cpu::Run};

TEST_CASE("matmul: shapes, transposes and broadcasting") {
  for (const int threads : {1, 2, 3}) {
    cpu::CpuContext context(threads);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const MatmulCase& c : MatmulCases()) {
        const std::string name = Text(c.a) + " " + Text(c.b);
        CAPTURE(name);
        const Tensor a = Integers(dtype, c.a, 1), b = Integers(dtype, c.b, 2);
        const Tensor expected = MatmulExpected(c, a, b, dtype);
        ForEachSimdTarget([&] {
          const Tensor y(dtype, c.y);
          Run(kMatmul, MatmulArgs{a, b, y, c.trans_a, c.trans_b}, context);
          CHECK(y.intact());
          CHECK_IDENTICAL(y, expected);
        });
      }
    }
  }
}

TEST_CASE("matmul: dtypes may be mixed") {
  cpu::CpuContext context(2);
  const DType dtypes[] = {DType::kF32, DType::kBF16, DType::kF16};
  const MatmulCase c = {{9, 33}, {33, 18}, {9, 18}};
  for (const DType da : dtypes) {
    for (const DType db : dtypes) {
      for (const DType dy : dtypes) {
        const std::string name = std::string(NameOf(da)) + " " + NameOf(db) + " " + NameOf(dy);
        CAPTURE(name);
        const Tensor a = Integers(da, c.a, 1), b = Integers(db, c.b, 2);
        const Tensor y(dy, c.y);
        const MatmulArgs args{a, b, y, false, false};
        std::vector<std::byte> scratch(cpu::ScratchBytes(args, 2));
        cpu::Run(args, scratch, context);
        CHECK_IDENTICAL(y, MatmulExpected(c, a, b, dy));
      }
    }
  }
}

}  // namespace
}  // namespace lora::test
