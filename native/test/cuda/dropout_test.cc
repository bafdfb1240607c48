#include <doctest/doctest.h>

#include "test/support/cuda_paths.h"
#include "test/support/dropout_cases.h"

namespace lora::test {
namespace {

TEST_CASE("cuda dropout: every size, dtype and mask agrees with the reference") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Dropout& dropout : Dropouts()) {
      for (const auto& [rows, columns] :
           {std::pair{0, 5}, {3, 0}, {1, 1}, {5, 7}, {2, 8}, {3, 257}, {67, 33}}) {
        CAPTURE(NameOf(dtype));
        CAPTURE(columns);
        const DropoutCase c(dtype, rows, columns, dropout);
        OnEveryCudaPath(
            [&](Context& context) {
              std::vector<Tensor> y = {Tensor(dtype, {rows, columns})};
              Run(MirroredCuda(), DropoutArgs{c.x, dropout, y[0]}, context);
              return y;
            },
            [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], c.y, c.bounds); });
      }
    }
  }
}

}  // namespace
}  // namespace lora::test
