// The cases of embedding, of every backend.
#pragma once

#include <doctest/doctest.h>

#include <string>

#include "core/error.h"
#include "test/support/run.h"
#include "test/support/tensors.h"

namespace lora::test {

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

// run(ids, y) looks ids up in a weight of 5 rows and 4 columns of f32.
template <class RunFn>
void CheckEmbeddingRefusesIds(const RunFn& run) {
  for (const int32_t bad : {-1, 5}) {
    const Tensor ids = Ints({4}, {0, bad, -7, 1}), y(DType::kF32, {4, 4});
    try {
      run(ids, y);
      FAIL("expected an error");
    } catch (const Error& error) {
      CHECK(error.code() == "ERR_DATA");
      CHECK(std::string(error.what()) == "[embedding] expected ids from 0 to 4 but received " +
                                             std::to_string(bad) + " at position 1");
    }
  }
}

}  // namespace lora::test
