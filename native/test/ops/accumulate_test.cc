#include "test/support/tested.h"

namespace lora::test {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

TEST_CASE("accumulate: every size and pair of dtypes") {
  for (const DType from : kTypes) {
    for (const DType to : kTypes) {
      for (const int64_t n : Tested().sizes) {
        if (n > 5000 && from != to) continue;
        CAPTURE(NameOf(from));
        CAPTURE(NameOf(to));
        CAPTURE(n);
        const Tensor x = Normal(from, {n}, 1), before = Normal(to, {n}, 2), expected = before;
        Run(ReferenceBackend(), AccumulateArgs{x, expected});
        std::vector<double> bounds;
        for (const double e : expected.Values())
          bounds.push_back(kU * std::fabs(e) + RoundingBound(to, e));
        OnEveryPath(
            [&](Context& context) {
              std::vector<Tensor> y = {before};
              RunTested(AccumulateArgs{x, y[0]}, context);
              return y;
            },
            [&](const std::vector<Tensor>& y) { CHECK_CLOSE(y[0], expected, bounds); });
      }
    }
  }
}

TEST_CASE("accumulate: whole numbers are exact") {
  for (const DType dtype : kTypes) {
    const Tensor x = Integers(dtype, {3, 77}, 1), before = Integers(dtype, {3, 77}, 2);
    OnEveryPath(
        [&](Context& context) {
          std::vector<Tensor> y = {before};
          RunTested(AccumulateArgs{x, y[0]}, context);
          return y;
        },
        [&](const std::vector<Tensor>& y) {
          for (int64_t i = 0; i < x.numel(); ++i) CHECK(y[0].at(i) == x.at(i) + before.at(i));
        });
  }
}

}  // namespace
}  // namespace lora::test
