// embedding of the CUDA backend: rows of W, bit for bit.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "test/support/close.h"
#include "test/support/embedding_cases.h"
#include "test/support/run.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

PackedView RowMajor(const Tensor& w) {
  return {w.view().data, w.dtype(), w.shape()[0], w.shape()[1]};
}

TEST_CASE("cuda embedding: the rows that the ids name") {
  int turn = 0;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t dim : {1, 2, 3, 7, 8, 16, 17, 63, 64, 65, 520, 1030}) {
      for (const int64_t n : {0, 1, 3, 37}) {
        CAPTURE(NameOf(dtype));
        CAPTURE(dim);
        CAPTURE(n);
        const EmbeddingCase c(dtype, 31, dim, n);
        for (const int64_t skew : {0, 1}) {
          CAPTURE(skew);
          MirrorContext context = NthContext(turn++, skew);
          const Tensor y(dtype, {n, dim});
          Run(MirroredCuda(), EmbeddingArgs{RowMajor(c.weight), c.ids, y}, context);
          CHECK_IDENTICAL(y, c.expected);
          CHECK(y.intact());
        }
      }
    }
  }
}

TEST_CASE("cuda embedding: copies bits, not numbers") {
  Tensor w(DType::kBF16, {1, 8});
  const uint16_t nan = 0x7f81;  // which a conversion would make another NaN
  for (int i = 0; i < 8; ++i) w.view().as<uint16_t>()[i] = nan;
  MirrorContext context = NthContext(0);
  const Tensor y(DType::kBF16, {1, 8});
  Run(MirroredCuda(), EmbeddingArgs{RowMajor(w), Ints({1}, {0}), y}, context);
  for (int i = 0; i < 8; ++i) CHECK(y.view().as<uint16_t>()[i] == nan);
}

TEST_CASE("cuda embedding: many ids, and a width of 0") {
  for (const int64_t dim : {0, 1}) {
    const EmbeddingCase c(DType::kF32, 200, dim, 1300);  // more than the check's block has threads
    MirrorContext context = NthContext(4);
    const Tensor y(DType::kF32, {1300, dim});
    PackedView weight = RowMajor(c.weight);
    weight.data = c.ids.view().data;  // a view without data counts as absent
    Run(MirroredCuda(), EmbeddingArgs{dim == 0 ? weight : RowMajor(c.weight), c.ids, y}, context);
    CHECK_IDENTICAL(y, c.expected);
  }
}

TEST_CASE("cuda embedding: the first id outside the vocabulary is named, wherever it is") {
  const Tensor w = Normal(DType::kF32, {5, 4}, 1);
  for (int turn = 0; turn < 9; ++turn) {
    MirrorContext context = NthContext(turn);
    CheckEmbeddingRefusesIds([&](const Tensor& ids, const Tensor& y) {
      Run(MirroredCuda(), EmbeddingArgs{RowMajor(w), ids, y}, context);
    });
    for (const int64_t at : {31, 511, 512, 1100}) {
      CAPTURE(at);
      Tensor ids = Integers(DType::kI32, {1200}, 1, 0, 4);
      ids.Set(1199, 9);
      ids.Set(at + 64, 8);
      ids.Set(at, std::numeric_limits<int32_t>::min());
      const Tensor y(DType::kF32, {1200, 4});
      CHECK_THROWS_WITH_AS(
          Run(MirroredCuda(), EmbeddingArgs{RowMajor(w), ids, y}, context),
          ("[embedding] expected ids from 0 to 4 but received -2147483648 at position " +
           std::to_string(at))
              .c_str(),
          Error);
      CHECK(std::isnan(y.at(0)));  // nothing was written
    }
  }
}

}  // namespace
}  // namespace lora::test
