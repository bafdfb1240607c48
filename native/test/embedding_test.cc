// embedding of the CPU backend: rows of a packed matrix, bit for bit.
#include "backend/cpu/embedding.h"

#include <doctest/doctest.h>

#include "backend/cpu/pack.h"
#include "core/error.h"
#include "test/support/cpu_paths.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<EmbeddingArgs> kEmbedding = {cpu::EmbeddingScratchBytes, cpu::Embedding};
const Op<PackArgs> kPack = {cpu::PackScratchBytes, cpu::Pack};

// Packed for the target that runs now.
struct Packed {
  Tensor memory;
  PackedView view;
  Packed(const Tensor& w, Context& context) {
    const int64_t rows = w.shape()[0], cols = w.shape()[1];
    const size_t bytes = cpu::PackedBytes(rows, cols, w.dtype(), Direction::kForward);
    // A view without data counts as absent.
    memory = Tensor(DType::kI32, {static_cast<int64_t>(bytes / 4 + 1)});
    Run(kPack, PackArgs{w, memory.view().data, Direction::kForward}, context);
    view = {memory.view().data, w.dtype(), rows, cols, Direction::kForward};
  }
};

TEST_CASE("embedding: the rows that the ids name") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t dim : {0, 1, 2, 3, 7, 16, 17, 63, 64, 65, 1000}) {
      for (const int64_t n : {0, 1, 3, 130}) {
        CAPTURE(NameOf(dtype));
        CAPTURE(dim);
        CAPTURE(n);
        const int64_t vocab = 131;
        const Tensor w = Normal(dtype, {vocab, dim}, 1);
        const Tensor ids = Integers(DType::kI32, {n}, 2, 0, static_cast<int>(vocab) - 1);
        Tensor expected(dtype, {n, dim});
        for (int64_t i = 0; i < n * dim; ++i) {
          expected.Set(i, w.at(static_cast<int64_t>(ids.at(i / dim)) * dim + i % dim));
        }
        OnEveryCpuPath(
            [&](Context& context) {
              const Packed packed(w, context);
              std::vector<Tensor> y = {Tensor(dtype, {n, dim})};
              Run(kEmbedding, EmbeddingArgs{packed.view, ids, y[0]}, context);
              return y;
            },
            [&](const std::vector<Tensor>& y) { CHECK_IDENTICAL(y[0], expected); });
      }
    }
  }
}

TEST_CASE("embedding: an id outside the vocabulary fails with its place") {
  cpu::CpuContext context(1);
  const Packed packed(Normal(DType::kF32, {5, 4}, 1), context);
  for (const int32_t bad : {-1, 5}) {
    const Tensor ids = Ints({3}, {0, bad, 1});
    Tensor y(DType::kF32, {3, 4});
    try {
      Run(kEmbedding, EmbeddingArgs{packed.view, ids, y}, context);
      FAIL("expected an error");
    } catch (const Error& error) {
      CHECK(error.code() == "ERR_DATA");
      CHECK(std::string(error.what()) == "[embedding] expected ids from 0 to 4 but received " +
                                             std::to_string(bad) + " at position 1");
    }
  }
}

}  // namespace
}  // namespace lora::test
