#include <doctest/doctest.h>

#include "test/support/any_bits.h"
#include "test/support/close.h"
#include "test/support/run.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

const Shape kShapes[] = {{0, 5}, {5, 0}, {1, 1}, {3, 7}, {1, 8}, {63, 33}, {64, 32}, {130, 67}};

TEST_CASE("cuda pack: row-major; unpack returns every bit") {
  int turn = 0;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Shape& shape : kShapes) {
      for (const int64_t skew : {0, 1}) {
        CAPTURE(NameOf(dtype));
        CAPTURE(Text(shape));
        CAPTURE(skew);
        MirrorContext context = NthContext(turn++, skew);
        const Backend& cuda = MirroredCuda();
        const Tensor w = AnyBits(dtype, shape);
        CHECK(cuda.packed_bytes(shape[0], shape[1], FormatOf(dtype)) == w.view().bytes());
        const Tensor memory(dtype, shape);
        Run(cuda, PackArgs{w, memory.view().data, {}}, context);
        CHECK_IDENTICAL(memory, w);
        CHECK(memory.intact());
        const PackedView packed{memory.view().data, dtype, shape[0], shape[1]};
        const Tensor back(dtype, shape);
        Run(cuda, UnpackArgs{packed, back}, context);
        CHECK_IDENTICAL(back, w);
        CHECK(back.intact());
      }
    }
  }
}

}  // namespace
}  // namespace lora::test
