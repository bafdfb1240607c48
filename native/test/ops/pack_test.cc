#include <vector>

#include "test/support/any_bits.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

const Shape kShapes[] = {{0, 5},   {5, 0},   {1, 1},   {3, 7},   {1, 8},
                         {63, 33}, {64, 32}, {65, 31}, {130, 67}};

TEST_CASE("pack: unpack returns every bit") {
  for (const DType dtype : Activations()) {
    for (const Shape& shape : kShapes) {
      CAPTURE(NameOf(dtype));
      CAPTURE(Text(shape));
      const Tensor w = AnyBits(dtype, shape);
      OnEveryPath(
          [&](Context& context) {
            const FrozenWeight weight(Tested().backend, w, context);
            std::vector<Tensor> back = {Tensor(dtype, shape)};
            RunTested(UnpackArgs{weight.view(), back[0]}, context);
            return back;
          },
          [&](const std::vector<Tensor>& back) { CHECK_IDENTICAL(back[0], w); });
    }
  }
}

}  // namespace
}  // namespace lora::test
