#include "test/support/any_bits.h"
#include "test/support/close.h"
#include "test/support/run.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

TEST_CASE("cuda pack: a packed matrix is row-major") {
  int turn = 0;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Shape& shape :
         {Shape{0, 5}, Shape{5, 0}, Shape{3, 7}, Shape{1, 8}, Shape{130, 67}}) {
      CAPTURE(NameOf(dtype));
      CAPTURE(Text(shape));
      const Tensor w = AnyBits(dtype, shape), memory(dtype, shape);
      CHECK(MirroredCuda().packed_bytes(shape[0], shape[1], FormatOf(dtype)) == w.view().bytes());
      MirrorContext context = NthContext(turn, static_cast<Addresses>(turn % 4));
      ++turn;
      Run(MirroredCuda(), PackOf(w, memory.view().data), context);
      CHECK_IDENTICAL(memory, w);
      CHECK(memory.intact());
    }
  }
}

}  // namespace
}  // namespace lora::test
