#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

struct EmbeddingCase {
  Tensor weight, ids, expected;
  EmbeddingCase(DType dtype, int64_t vocab, int64_t dim, int64_t n)
      : weight(Normal(dtype, {vocab, dim}, 1)),
        ids(Integers(DType::kI32, {n}, 2, 0, static_cast<int>(vocab) - 1)),
        expected(dtype, {n, dim}) {
    for (int64_t i = 0; i < n * dim; ++i) {
      expected.Set(i, weight.at(static_cast<int64_t>(ids.at(i / dim)) * dim + i % dim));
    }
  }
};

std::vector<Tensor> LookUp(const Tensor& w, const Tensor& ids, Context& context) {
  const FrozenWeight weight(Tested().backend, w, context);
  std::vector<Tensor> y = {Tensor(w.dtype(), {ids.numel(), w.shape()[1]})};
  RunTested(EmbeddingArgs{weight.view(), ids, y[0]}, context);
  return y;
}

void CheckRows(const EmbeddingCase& c) {
  OnEveryPath([&](Context& context) { return LookUp(c.weight, c.ids, context); },
              [&](const std::vector<Tensor>& y) { CHECK_IDENTICAL(y[0], c.expected); });
}

TEST_CASE("embedding: the rows that the ids name") {
  for (const DType dtype : Activations()) {
    for (const int64_t dim : {0, 1, 2, 3, 7, 8, 16, 17, 63, 64, 65, 520, 1000, 1030}) {
      for (const int64_t n : {0, 1, 3, Tested().emulated ? 37 : 130}) {
        CAPTURE(NameOf(dtype));
        CAPTURE(dim);
        CAPTURE(n);
        CheckRows(EmbeddingCase(dtype, Tested().emulated ? 31 : 131, dim, n));
      }
    }
  }
}

TEST_CASE("embedding: copies bits, not numbers") {
  Tensor w(DType::kBF16, {1, 8});
  const uint16_t nan = 0x7f81;  // which a conversion would make another NaN
  for (int i = 0; i < 8; ++i) w.view().as<uint16_t>()[i] = nan;
  OnEveryPath([&](Context& context) { return LookUp(w, Ints({1}, {0}), context); },
              [&](const std::vector<Tensor>& y) {
                for (int i = 0; i < 8; ++i) CHECK(y[0].view().as<uint16_t>()[i] == nan);
              });
}

TEST_CASE("embedding: more ids than the check of a GPU has threads, and a width of 0") {
  for (const int64_t dim : {0, 1}) CheckRows(EmbeddingCase(DType::kF32, 200, dim, 1300));
}

// Looks ids up in a weight of 5 rows, which must fail before anything is written.
void CheckRefused(const Tensor& ids, const std::string& problem, Context& context) {
  const FrozenWeight weight(Tested().backend, Normal(DType::kF32, {5, 4}, 1), context);
  const Tensor y(DType::kF32, {ids.numel(), 4});
  try {
    RunTested(EmbeddingArgs{weight.view(), ids, y}, context);
    FAIL("expected an error");
  } catch (const Error& error) {
    CHECK(error.code() == "ERR_DATA");
    CHECK(error.what() == "[embedding] expected ids from 0 to 4 but received " + problem);
  }
  CHECK(std::isnan(y.at(0)));
}

TEST_CASE("embedding: the first id outside the vocabulary is named, wherever it is") {
  for (int turn = 0; turn < 9; ++turn) {
    const auto context = NextContext();
    for (const int32_t bad : {-1, 5})
      CheckRefused(Ints({4}, {0, bad, -7, 1}), std::to_string(bad) + " at position 1", *context);
    for (const int64_t at : {31, 511, 512, 1100}) {
      CAPTURE(at);
      Tensor ids = Integers(DType::kI32, {1200}, 1, 0, 4);
      ids.Set(1199, 9);
      ids.Set(at + 64, 8);
      ids.Set(at, std::numeric_limits<int32_t>::min());
      CheckRefused(ids, "-2147483648 at position " + std::to_string(at), *context);
    }
  }
}

// The gradient of rows that ids name, by its definition. Whole numbers, whose sums are exact; where
// they are not, the order of the sum decides about the bits.
TEST_CASE("embedding_backward: sums of the rows of an id, in their order") {
  for (const int64_t dim : {0, 1, 3, 63, 64, 65, 130, 520}) {
    for (const int64_t n : {0, 1, 7, Tested().emulated ? 37 : 700}) {
      for (const bool whole : {true, false}) {
        CAPTURE(dim);
        CAPTURE(n);
        const int64_t vocab = 11;
        const auto values = [&](Shape shape, uint64_t seed) {
          return whole ? Integers(DType::kF32, shape, seed) : Normal(DType::kF32, shape, seed);
        };
        const Tensor g = values({n, dim}, 1), start = values({vocab, dim}, 2);
        const Tensor ids = Integers(DType::kI32, {n}, 3, 0, vocab - 1);
        Tensor expected = start.As(DType::kF32);
        for (int64_t i = 0; i < n; ++i) {
          for (int64_t j = 0; j < dim; ++j) {
            const int64_t at = static_cast<int64_t>(ids.at(i)) * dim + j;
            expected.Set(
                at, static_cast<float>(expected.at(at)) + static_cast<float>(g.at(i * dim + j)));
          }
        }
        OnEveryPath(
            [&](Context& context) {
              std::vector<Tensor> dw = {start.As(DType::kF32)};
              RunTested(EmbeddingBackwardArgs{g, ids, dw[0]}, context);
              return dw;
            },
            [&](const std::vector<Tensor>& dw) { CHECK_IDENTICAL(dw[0], expected); });
      }
    }
  }
}

TEST_CASE("embedding_backward: an id outside the vocabulary changes nothing") {
  const auto context = NextContext();
  const Tensor g = Normal(DType::kF32, {3, 4}, 1), dw = Integers(DType::kF32, {5, 4}, 2);
  const Tensor before = dw.As(DType::kF32);
  CHECK_THROWS_AS(RunTested(EmbeddingBackwardArgs{g, Ints({3}, {0, 5, 1}), dw}, *context), Error);
  CHECK_IDENTICAL(dw, before);
}

}  // namespace
}  // namespace lora::test
