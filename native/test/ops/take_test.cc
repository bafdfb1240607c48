#include <cmath>
#include <string>
#include <vector>

#include "core/error.h"
#include "test/support/any_bits.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

struct TakeCase {
  Shape x;
  int64_t dim, taken;
};

std::vector<TakeCase> TakeCases() {
  return {
      {{5}, 0, 3},
      {{4, 1}, 0, 9},
      {{1, 4}, 1, 2},
      {{3, 7}, 0, 5},
      {{3, 7}, 1, 5},
      {{2, 3, 8}, 1, 4},
      {{2, 3, 64}, 1, 5},
      {{2, 3, 65}, 1, 1},
      {{6, 2, 3}, 2, 3},
      {{0, 4}, 1, 3},
      {{4, 0}, 0, 3},
      {{3, 4}, 1, 0},
      {{700}, 0, 300},
      {{9, 600}, 1, 2},
      {{2, 3, 2, 3}, 2, 11},
      {{130, 33}, 1, 70},
      // Lines for three threads, whose parts begin within an outer element.
      {{4, 9, 100}, 1, Tested().emulated ? 2 : 700},
  };
}

Shape TakenOf(const TakeCase& c) {
  Shape shape;
  for (int d = 0; d < c.x.rank(); ++d) shape.push_back(d == c.dim ? c.taken : c.x[d]);
  return shape;
}

// One list for all lines, and one for each.
std::vector<Tensor> IndicesOf(const TakeCase& c) {
  const int most = static_cast<int>(c.x[static_cast<int>(c.dim)]) - 1;
  return {Integers(DType::kI32, {c.taken}, 3, 0, most),
          Integers(DType::kI32, TakenOf(c), 4, 0, most)};
}

TEST_CASE("take: elements bit for bit, by one list and by a list for each line") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI32}) {
    for (const TakeCase& c : TakeCases()) {
      for (const Tensor& index : IndicesOf(c)) {
        CAPTURE(NameOf(dtype));
        CAPTURE(Text(c.x));
        CAPTURE(c.dim);
        CAPTURE(Text(index.shape()));
        const Tensor x = AnyBits(dtype, c.x), expected(dtype, TakenOf(c));
        Run(ReferenceBackend(), TakeArgs{x, index, c.dim, expected});
        OnEveryPath(
            [&](Context& context) {
              std::vector<Tensor> y = {Tensor(dtype, TakenOf(c))};
              RunTested(TakeArgs{x, index, c.dim, y[0]}, context);
              return y;
            },
            [&](const std::vector<Tensor>& y) { CHECK_IDENTICAL(y[0], expected); });
      }
    }
  }
}

// By its definition. Whole numbers, whose sums are exact; where they are not, the order decides.
TEST_CASE("take_backward: sums of what was taken, in their order") {
  for (const TakeCase& c : TakeCases()) {
    for (const Tensor& index : IndicesOf(c)) {
      for (const bool whole : {true, false}) {
        CAPTURE(Text(c.x));
        CAPTURE(c.dim);
        CAPTURE(Text(index.shape()));
        const auto values = [&](const Shape& shape, uint64_t seed) {
          return whole ? Integers(DType::kF32, shape, seed) : Normal(DType::kF32, shape, seed);
        };
        const Tensor g = values(TakenOf(c), 1), start = values(c.x, 2);
        Tensor expected = start.As(DType::kF32);
        int64_t inner = 1;
        for (int d = static_cast<int>(c.dim) + 1; d < c.x.rank(); ++d) inner *= c.x[d];
        for (int64_t i = 0; i < g.numel(); ++i) {
          const int64_t row = i / inner, line = row / c.taken;
          const int64_t place =
              static_cast<int64_t>(index.at(index.shape().rank() == 1 ? row % c.taken : i));
          const int64_t at = (line * c.x[static_cast<int>(c.dim)] + place) * inner + i % inner;
          expected.Set(at, static_cast<float>(expected.at(at)) + static_cast<float>(g.at(i)));
        }
        OnEveryPath(
            [&](Context& context) {
              std::vector<Tensor> dx = {start.As(DType::kF32)};
              RunTested(TakeBackwardArgs{g, index, c.dim, dx[0]}, context);
              return dx;
            },
            [&](const std::vector<Tensor>& dx) { CHECK_IDENTICAL(dx[0], expected); });
      }
    }
  }
}

TEST_CASE("take: a place outside of the dimension is named, and nothing is written") {
  for (int turn = 0; turn < 3; ++turn) {
    const auto context = NextContext();
    for (const int32_t bad : {-1, 5}) {
      const Tensor index = Ints({2, 2}, {0, bad, 4, -7});
      const Tensor x = Normal(DType::kF32, {2, 5}, 1), y(DType::kF32, {2, 2});
      const Tensor dx = Integers(DType::kF32, {2, 5}, 2), before = dx.As(DType::kF32);
      const std::string expected = "[take] expected an index from 0 to 4 but received " +
                                   std::to_string(bad) + " at position 1";
      const auto fails = [&](const auto& args) {
        try {
          RunTested(args, *context);
          FAIL("expected an error");
        } catch (const Error& error) {
          CHECK(error.code() == "ERR_DATA");
          CHECK(error.what() == expected);
        }
      };
      fails(TakeArgs{x, index, 1, y});
      CHECK(std::isnan(y.at(0)));
      fails(TakeBackwardArgs{Normal(DType::kF32, {2, 2}, 3), index, 1, dx});
      CHECK_IDENTICAL(dx, before);
    }
  }
}

}  // namespace
}  // namespace lora::test
