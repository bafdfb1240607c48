#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Entries {
  std::vector<int32_t> rows, ids;
  std::vector<double> factors, addends;

  void Add(int64_t row, int64_t id, double factor, double addend) {
    rows.push_back(static_cast<int32_t>(row));
    ids.push_back(static_cast<int32_t>(id));
    factors.push_back(factor);
    addends.push_back(addend);
  }
  int64_t size() const { return static_cast<int64_t>(rows.size()); }
};

// Returns the logits after a run on a context.
Tensor Adjusted(const Backend& backend, const Tensor& logits, const Entries& entries,
                Context& context) {
  Tensor adjusted = logits;
  const Shape shape{entries.size()};
  const Tensor rows = Ints(shape, entries.rows), ids = Ints(shape, entries.ids),
               factors = Of(DType::kF32, shape, entries.factors),
               addends = Of(DType::kF32, shape, entries.addends);
  Run(backend, AdjustLogitsArgs{adjusted, rows, ids, factors, addends}, context);
  return adjusted;
}

// Factors that are powers of two, and sums of few bits, are exact in every dtype.
TEST_CASE("adjust_logits: penalties and biases, entry by entry") {
  for (const DType dtype : Activations()) {
    Tensor logits = Of(dtype, {2, 4}, {4, -4, 0, 1, 2, -2, 8, 0.5});
    Entries entries;
    entries.Add(0, 0, 2, 0);           // 4 / 2
    entries.Add(0, 1, 2, 0);           // −4 · 2
    entries.Add(0, 2, 2, -1);          // 0 − 1
    entries.Add(1, 0, 1, 3);           // 2 + 3
    entries.Add(1, 2, 4, -0.5);        // 8 / 4 − 0.5
    entries.Add(1, 3, 1, -kInfinity);  // never drawn
    entries.Add(-1, 3, 2, 9);          // none
    entries.Add(0, -1, 2, 9);          // none
    OnEveryPath(
        [&](Context& context) {
          std::vector<Tensor> result = {Adjusted(Tested().backend, logits, entries, context)};
          return result;
        },
        [&](const std::vector<Tensor>& result) {
          CHECK(result[0].Values() == std::vector<double>{2, -8, -1, 1, 5, -2, 1.5, -kInfinity});
        });
  }
}

TEST_CASE("adjust_logits: as the reference, for any number of entries") {
  for (const DType dtype : Activations()) {
    for (const int64_t n : {0, 1, 33, 300}) {
      const int64_t vocab = 101;
      const Tensor logits = Normal(dtype, {3, vocab}, 4);
      const Tensor factors = Uniform(DType::kF32, {n}, 5, 0.5, 2),
                   addends = Normal(DType::kF32, {n}, 6);
      Entries entries;
      for (int64_t i = 0; i < n; ++i) entries.Add(i % 3, i / 3, factors.at(i), addends.at(i));
      const std::unique_ptr<Context> host = ReferenceBackend().create_context(1);
      const Tensor expected = Adjusted(ReferenceBackend(), logits, entries, *host);
      OnPathsInTurn(
          [&](Context& context) {
            std::vector<Tensor> result = {Adjusted(Tested().backend, logits, entries, context)};
            return result;
          },
          [&](const std::vector<Tensor>& result) {
            // Values of at most 16, of which f32 rounds a quotient and a sum, and the dtype one.
            CHECK_CLOSE(result[0], expected, (Tolerance{2 * 16 * kU, 2 * UnitRoundoff(dtype)}));
          });
    }
  }
}

std::string FailureOf(int64_t row, int64_t id) {
  Entries entries;
  entries.Add(1, 3, 1, 0);
  entries.Add(row, id, 1, 0);
  try {
    Adjusted(Tested().backend, Zeros(DType::kF32, {2, 4}), entries, *NextContext());
  } catch (const Error& error) {
    return error.code() + ": " + error.what();
  }
  return "no error";
}

TEST_CASE("adjust_logits: entries out of range fail") {
  CHECK(FailureOf(0, 0) == "no error");
  CHECK(FailureOf(2, 0) ==
        "ERR_DATA: [adjust_logits] expected rows from 0 to 1 (or -1 for none) but received 2 at "
        "position 1");
  CHECK(FailureOf(-2, 0) ==
        "ERR_DATA: [adjust_logits] expected rows from 0 to 1 (or -1 for none) but received -2 at "
        "position 1");
  CHECK(FailureOf(0, 4) ==
        "ERR_DATA: [adjust_logits] expected ids from 0 to 3 (or -1 for none) but received 4 at "
        "position 1");
}

TEST_CASE("mask_logits: −∞ where a bit is 0") {
  for (const DType dtype : Activations()) {
    for (const int64_t vocab : {1, 31, 32, 33, 1000}) {
      const int64_t rows = 3, words = (vocab + 31) / 32;
      const Tensor logits = Normal(dtype, {rows, vocab}, 8);
      Tensor bits(DType::kI32, {rows, words});
      for (int64_t i = 0; i < rows * words; ++i) {
        const auto word = static_cast<uint32_t>(i + 1) * 0x9e3779b9u;
        bits.view().as<int32_t>()[i] = i % 5 == 2 ? -1 : static_cast<int32_t>(word);
      }
      std::vector<double> expected = logits.Values();
      for (int64_t i = 0; i < rows * vocab; ++i) {
        const int64_t v = i % vocab;
        const auto word =
            static_cast<uint32_t>(bits.view().as<int32_t>()[i / vocab * words + v / 32]);
        if ((word >> (v % 32)) % 2 == 0) expected[static_cast<size_t>(i)] = -kInfinity;
      }
      OnPathsInTurn(
          [&](Context& context) {
            std::vector<Tensor> masked = {logits};
            RunTested(MaskLogitsArgs{masked[0], bits}, context);
            return masked;
          },
          [&](const std::vector<Tensor>& masked) { CHECK(masked[0].Values() == expected); });
      Tensor masked = logits;
      Run(ReferenceBackend(), MaskLogitsArgs{masked, bits});
      CHECK(masked.Values() == expected);
    }
  }
}

}  // namespace
}  // namespace lora::test
