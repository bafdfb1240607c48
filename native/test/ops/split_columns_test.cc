#include <vector>

#include "test/support/any_bits.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

struct Case {
  int64_t rows;
  std::vector<int64_t> sizes;
};

std::vector<Case> Cases() {
  return {
      {3, {4, 2}},
      {1, {1, 1, 1}},
      {5, {7, 3, 9}},
      {2, {8, 8, 8}},
      {7, {16, 24}},
      {2, {64, 0, 32}},
      {3, {0, 5}},
      {0, {4, 4}},
      {2, {0, 0}},
      {4, {6}},
      {9, {33, 65, 129}},
      {2, {17, 8}},
      {300, {130, 67, 61}},  // enough for three threads
      {3, {1, 9, 0, 4, 16, 3, 8, 5}},
  };
}

// Empty matrices of the parts, and views of them.
std::vector<Tensor> PartsOf(DType dtype, const Case& c) {
  std::vector<Tensor> parts;
  for (const int64_t size : c.sizes) parts.emplace_back(dtype, Shape{c.rows, size});
  return parts;
}
std::vector<TensorView> ViewsOf(const std::vector<Tensor>& parts) {
  return {parts.begin(), parts.end()};
}

TEST_CASE("split_columns and join_columns: every part, bit for bit, and zeros for an absent one") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI32}) {
    for (const Case& c : Cases()) {
      CAPTURE(NameOf(dtype));
      CAPTURE(c.rows);
      CAPTURE(c.sizes.size());
      int64_t columns = 0;
      for (const int64_t size : c.sizes) columns += size;
      CAPTURE(columns);
      const Tensor x = AnyBits(dtype, {c.rows, columns});
      const Tensor values = Normal(dtype, x.shape(), 1), without_second(dtype, x.shape());
      const std::vector<Tensor> expected = PartsOf(dtype, c);
      Run(ReferenceBackend(), SplitColumnsArgs{values, c.sizes, ViewsOf(expected)});
      std::vector<TensorView> first_and_last = ViewsOf(expected);
      const bool several = c.sizes.size() > 1;
      if (several) first_and_last[1] = {};
      Run(ReferenceBackend(), JoinColumnsArgs{first_and_last, c.sizes, without_second});
      OnEveryPath(
          [&](Context& context) {
            std::vector<Tensor> made = PartsOf(dtype, c);
            const std::vector<Tensor> copies = PartsOf(dtype, c);
            RunTested(SplitColumnsArgs{values, c.sizes, ViewsOf(made)}, context);
            RunTested(SplitColumnsArgs{x, c.sizes, ViewsOf(copies)}, context);
            made.emplace_back(dtype, x.shape());
            RunTested(JoinColumnsArgs{ViewsOf(copies), c.sizes, made.back()}, context);
            made.emplace_back(dtype, x.shape());
            RunTested(JoinColumnsArgs{first_and_last, c.sizes, made.back()}, context);
            const std::vector<Tensor> wanted = PartsOf(dtype, c);
            std::vector<TensorView> without = ViewsOf(wanted);
            if (several) without[1] = {};
            RunTested(SplitColumnsArgs{values, c.sizes, without}, context);
            for (size_t i = 0; i < wanted.size(); ++i)
              if (i != 1) made.push_back(wanted[i]);
            return made;
          },
          [&](const std::vector<Tensor>& made) {
            for (size_t i = 0; i < expected.size(); ++i) CHECK_IDENTICAL(made[i], expected[i]);
            CHECK_IDENTICAL(made[expected.size()], x);
            CHECK_IDENTICAL(made[expected.size() + 1], without_second);
            size_t next = expected.size() + 2;
            for (size_t i = 0; i < expected.size(); ++i)
              if (i != 1) CHECK_IDENTICAL(made[next++], expected[i]);
          });
    }
  }
}

}  // namespace
}  // namespace lora::test
