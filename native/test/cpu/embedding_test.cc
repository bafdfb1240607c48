// embedding of the CPU backend: rows of a packed matrix, bit for bit.
#include <doctest/doctest.h>

#include "backend/cpu/kernels.h"
#include "backend/cpu/pack.h"
#include "test/support/cpu_paths.h"
#include "test/support/embedding_cases.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

const Op<EmbeddingArgs> kEmbedding = {cpu::ScratchBytes, cpu::Run};
const Op<PackArgs> kPack = {cpu::ScratchBytes, cpu::Run};

// Packed for the target that runs now.
struct Packed {
  Tensor memory;
  PackedView view;
  Packed(const Tensor& w, Context& context) {
    const int64_t rows = w.shape()[0], cols = w.shape()[1];
    const size_t bytes = cpu::PackedBytes(rows, cols, FormatOf(w.dtype()));
    // A view without data counts as absent.
    memory = Tensor(DType::kI32, {static_cast<int64_t>(bytes / 4 + 1)});
    Run(kPack, PackArgs{w, memory.view().data, {}}, context);
    view = {memory.view().data, w.dtype(), rows, cols};
  }
};

TEST_CASE("embedding: the rows that the ids name") {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t dim : {0, 1, 2, 3, 7, 16, 17, 63, 64, 65, 1000}) {
      for (const int64_t n : {0, 1, 3, 130}) {
        CAPTURE(NameOf(dtype));
        CAPTURE(dim);
        CAPTURE(n);
        const EmbeddingCase c(dtype, 131, dim, n);
        OnEveryCpuPath(
            [&](Context& context) {
              const Packed packed(c.weight, context);
              std::vector<Tensor> y = {Tensor(dtype, {n, dim})};
              Run(kEmbedding, EmbeddingArgs{packed.view, c.ids, y[0]}, context);
              return y;
            },
            [&](const std::vector<Tensor>& y) { CHECK_IDENTICAL(y[0], c.expected); });
      }
    }
  }
}

TEST_CASE("embedding: an id outside the vocabulary fails with its place") {
  cpu::CpuContext context(1);
  const Packed packed(Normal(DType::kF32, {5, 4}, 1), context);
  CheckEmbeddingRefusesIds([&](const Tensor& ids, const Tensor& y) {
    Run(kEmbedding, EmbeddingArgs{packed.view, ids, y}, context);
  });
}

}  // namespace
}  // namespace lora::test
