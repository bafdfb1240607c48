#include <vector>

#include "test/support/tested.h"

namespace lora::test {
namespace {

TEST_CASE("positions: those of the last tokens of each sequence, none below 0") {
  struct Case {
    std::vector<int32_t> lengths;
    int64_t count;
    std::vector<double> expected;
  };
  const std::vector<Case> cases = {
      {{1, 5, 2147483647}, 1, {0, 4, 2147483646}},
      {{3, 70}, 3, {0, 1, 2, 67, 68, 69}},
      {{0, 2, -5}, 3, {0, 0, 0, 0, 0, 1, 0, 0, 0}},
      {{4}, 0, {}},
      {{}, 3, {}},
  };
  for (const Case& c : cases) {
    CAPTURE(c.count);
    const auto batch = static_cast<int64_t>(c.lengths.size());
    const Tensor lengths = Ints({batch}, c.lengths), expected(DType::kI32, {batch, c.count});
    Run(ReferenceBackend(), PositionsArgs{lengths, c.count, expected});
    CHECK(expected.Values() == c.expected);
    OnEveryPath(
        [&](Context& context) {
          std::vector<Tensor> made = {Tensor(DType::kI32, {batch, c.count})};
          RunTested(PositionsArgs{lengths, c.count, made[0]}, context);
          return made;
        },
        [&](const std::vector<Tensor>& made) { CHECK_IDENTICAL(made[0], expected); });
  }
}

TEST_CASE("positions: more than a block of threads has") {
  const Tensor lengths = Ints({3}, {700, 500, 401}), expected(DType::kI32, {3, 400});
  Run(ReferenceBackend(), PositionsArgs{lengths, 400, expected});
  OnEveryPath(
      [&](Context& context) {
        std::vector<Tensor> made = {Tensor(DType::kI32, {3, 400})};
        RunTested(PositionsArgs{lengths, 400, made[0]}, context);
        return made;
      },
      [&](const std::vector<Tensor>& made) { CHECK_IDENTICAL(made[0], expected); });
}

}  // namespace
}  // namespace lora::test
