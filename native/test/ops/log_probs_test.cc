#include <cmath>
#include <limits>
#include <vector>

#include "test/support/tested.h"

namespace lora::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct LogProbs {
  Tensor values, ids;
  LogProbs(int64_t rows, int64_t n)
      : values(DType::kF32, {rows, 1 + n}), ids(DType::kI32, {rows, 1 + n}) {}
};

// Checks that every path gives the ids of the reference, and its values within the error of a sum.
void CheckLogProbs(const Tensor& logits, const Tensor& drawn, int64_t n) {
  CAPTURE(NameOf(logits.dtype()));
  CAPTURE(Text(logits.shape()));
  CAPTURE(n);
  const int64_t rows = logits.shape()[0];
  LogProbs expected(rows, n);
  Run(ReferenceBackend(), LogProbsArgs{logits, drawn, n, expected.values, expected.ids});
  OnPathsInTurn(
      [&](Context& context) {
        LogProbs got(rows, n);
        RunTested(LogProbsArgs{logits, drawn, n, got.values, got.ids}, context);
        return std::vector<Tensor>{got.values, got.ids};
      },
      [&](const std::vector<Tensor>& got) {
        CHECK_IDENTICAL(got[1], expected.ids);
        for (int64_t i = 0; i < expected.values.numel(); ++i) {
          const double value = got[0].at(i), wanted = expected.values.at(i);
          if (std::isnan(wanted) || std::isinf(wanted)) {
            CHECK(std::isnan(value) == std::isnan(wanted));
            CHECK(std::isinf(value) == std::isinf(wanted));
          } else {
            CHECK(std::fabs(value - wanted) <= 2e-6 * (1 + std::fabs(wanted)));
          }
        }
      });
}

TEST_CASE("log_probs: the drawn id, then the largest") {
  const Tensor logits = Of(DType::kF32, {1, 4}, {0, std::log(2), std::log(4), 0});
  const Tensor drawn = Ints({1}, {3});
  LogProbs got(1, 2);
  RunTested(LogProbsArgs{logits, drawn, 2, got.values, got.ids}, *NextContext());
  CHECK(got.ids.Values() == std::vector<double>{3, 2, 1});
  CHECK(std::fabs(got.values.at(0) + std::log(8)) < 1e-6);
  CHECK(std::fabs(got.values.at(1) + std::log(2)) < 1e-6);
  CHECK(std::fabs(got.values.at(2) + std::log(4)) < 1e-6);
}

TEST_CASE("log_probs: as the reference on every path") {
  for (const DType dtype : Activations()) {
    for (const int64_t rows : {0, 1, 3}) {
      for (const int64_t vocab : {1, 7, 64, 65, 3001}) {
        if (Tested().emulated && rows * vocab > 200) continue;
        const Tensor logits = Normal(dtype, {rows, vocab}, 3, 2);
        Tensor drawn(DType::kI32, {rows});
        for (int64_t row = 0; row < rows; ++row) drawn.Set(row, static_cast<double>(vocab - 1));
        for (const int64_t n : {0, 1, 5, 20, 60}) {
          if (n <= vocab) CheckLogProbs(logits, drawn, n);
        }
      }
    }
  }
}

TEST_CASE("log_probs: of equal logits the first") {
  Tensor logits = Full(DType::kF32, {2, 300}, 1);
  for (int64_t i = 0; i < 600; i += 7) logits.Set(i, 2);
  CheckLogProbs(logits, Ints({2}, {0, 299}), 20);
  CheckLogProbs(Full(DType::kF32, {1, 30}, 0), Ints({1}, {5}), 30);
}

TEST_CASE("log_probs: ids outside, masked logits, and what is no number") {
  CheckLogProbs(Normal(DType::kF32, {3, 9}, 1), Ints({3}, {-1, 9, INT32_MIN}), 2);
  Tensor logits = Full(DType::kF32, {5, 90}, -kInfinity);
  logits.Set(5, 1);
  logits.Set(80, 2);
  logits.Set(90 + 3, std::nan(""));
  logits.Set(90 + 4, 1);
  logits.Set(180 + 3, kInfinity);
  logits.Set(180 + 4, 1);
  for (int64_t i = 270; i < 360; ++i) logits.Set(i, std::nan(""));
  CheckLogProbs(logits, Ints({5}, {5, 4, 3, 0, 0}), 4);
}

// A CPU looks at the chunks of such a row alone that can hold the largest, unless a logit is bad.
TEST_CASE("log_probs: one bad logit, wherever it is in a row of more chunks than are wanted") {
  constexpr int64_t kVocab = 330;
  for (const double bad : {std::nan(""), kInfinity}) {
    for (const int64_t at : {int64_t{0}, int64_t{1}, int64_t{64}, kVocab - 1}) {
      CAPTURE(bad);
      CAPTURE(at);
      Tensor logits = Normal(DType::kF32, {1, kVocab}, 7, 2);
      logits.Set(at, bad);
      CheckLogProbs(logits, Ints({1}, {5}), 3);
    }
  }
}

}  // namespace
}  // namespace lora::test
