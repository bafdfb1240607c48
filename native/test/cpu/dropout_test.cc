// dropout: the reference against the mask's definition, the CPU backend against the reference.
#include <doctest/doctest.h>

#include "backend/cpu/kernels.h"
#include "core/maths/philox.h"
#include "test/support/cpu_paths.h"
#include "test/support/dropout_cases.h"

namespace lora::test {
namespace {

const Op<DropoutArgs> kDropout = {cpu::ScratchBytes, cpu::Run};

TEST_CASE("dropout: the reference keeps what the definition of the mask keeps") {
  const DropoutCase c(DType::kF32, 3, 21, {0.25f, 11, 2, 5});
  int kept = 0;
  for (int64_t row = 0; row < 3; ++row) {
    for (int64_t column = 0; column < 21; ++column) {
      const PhiloxWords words =
          Philox4x32(11, {static_cast<uint32_t>(column / 8), static_cast<uint32_t>(row), 2, 5});
      const uint32_t word = words[static_cast<size_t>(column % 8 / 2)];
      const bool keeps = (column % 2 == 0 ? word & 0xffffu : word >> 16) >= 16384;
      kept += keeps;
      const double x = c.x.at(row * 21 + column);
      CHECK(c.y.at(row * 21 + column) ==
            static_cast<double>(keeps ? static_cast<float>(x * DropoutScale(16384)) : 0.0f));
    }
  }
  CHECK(kept > 30);
  CHECK(kept < 63);
}

TEST_CASE("dropout: every size, dtype and mask agrees with the reference") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Dropout& dropout : Dropouts()) {
      for (const auto& [rows, columns] :
           {std::pair{0, 5}, {3, 0}, {1, 1}, {5, 7}, {2, 8}, {3, 513}, {2, 1700}, {67, 33}}) {
        CAPTURE(NameOf(dtype));
        CAPTURE(columns);
        const DropoutCase c(dtype, rows, columns, dropout);
        OnEveryCpuPath(
            [&](Context& context) {
              std::vector<Tensor> y = {Tensor(dtype, {rows, columns})};
              Run(kDropout, DropoutArgs{c.x, dropout, y[0]}, context);
              return y;
            },
            [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], c.y, c.bounds); });
      }
    }
  }
}

}  // namespace
}  // namespace lora::test
