#include <utility>
#include <vector>

#include "core/maths/philox.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

struct DropoutCase {
  DropoutCase(DType dtype, int64_t rows, int64_t columns, const Dropout& dropout)
      : dropout(dropout), x(Normal(dtype, {rows, columns}, 1)), y(dtype, {rows, columns}) {
    Run(ReferenceBackend(), DropoutArgs{x, dropout, y});
    for (const double value : y.Values())
      bounds.push_back(kU * std::fabs(value) + RoundingBound(dtype, value));
  }
  Dropout dropout;
  Tensor x, y;  // y of the reference
  std::vector<double> bounds;
};

// Varies every number of the mask: the high bits of the seed, layer, forward; p at its ends.
const std::vector<Dropout>& Dropouts() {
  static const std::vector<Dropout> dropouts = {
      {0.0f, 1, 2, 3},  {0.25f, 7, 0, 0},           {0.25f, (uint64_t{5} << 32) + 7, 0, 0},
      {0.9f, 3, 41, 1}, {0.5f, 3, 41, 4294967295u},
  };
  return dropouts;
}

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
      for (const auto& [rows, columns] : {std::pair{0, 5},
                                          {3, 0},
                                          {1, 1},
                                          {5, 7},
                                          {2, 8},
                                          {3, 257},
                                          {3, 513},
                                          {2, 1700},
                                          {67, 33}}) {
        CAPTURE(NameOf(dtype));
        CAPTURE(columns);
        const DropoutCase c(dtype, rows, columns, dropout);
        OnEveryPath(
            [&](Context& context) {
              std::vector<Tensor> y = {Tensor(dtype, {rows, columns})};
              RunTested(DropoutArgs{c.x, dropout, y[0]}, context);
              return y;
            },
            [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], c.y, c.bounds); });
      }
    }
  }
}

}  // namespace
}  // namespace lora::test
