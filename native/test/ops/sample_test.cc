#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/maths/sampling.h"
#include "test/support/sample_rows.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

constexpr SampleRules kRules[] = {{0, 0, 1},          {1, 0, 1},           {0.7f, 5, 1},
                                  {1.3f, 0, 0.8f},    {0.9f, 50, 0.5f},    {1, 0, 1, 0.05f},
                                  {2, 30, 1, 0.01f},  {1, 0, 0.99f, 0.1f}, {1, 0, 0.2f, 1e-6f},
                                  {0.01f, 0, 1, 0.5f}};

// Checks that every path draws the tokens of the reference.
void CheckDraws(const Tensor& logits, const SampleRows& rows) {
  const int64_t n = logits.shape()[0];
  const Tensor expected(DType::kI32, {n});
  Run(ReferenceBackend(), rows.Args(logits, expected));
  OnPathsInTurn(
      [&](Context& context) {
        std::vector<Tensor> ids = {Tensor(DType::kI32, {n})};
        RunTested(rows.Args(logits, ids[0]), context);
        return ids;
      },
      [&](const std::vector<Tensor>& ids) { CHECK_IDENTICAL(ids[0], expected); });
}

TEST_CASE("sample: the tokens of the reference on every path") {
  for (const DType dtype : Activations()) {
    for (const int64_t n : {0, 1, 5}) {
      for (const int64_t vocab : {1, 17, 1000}) {
        if (Tested().emulated && n * vocab > 17) continue;  // cuda/sample_device_test.cc has larger
        for (const SampleRules& rules : kRules) {
          CAPTURE(NameOf(dtype));
          CAPTURE(n);
          CAPTURE(vocab);
          CAPTURE(rules.temperature);
          CheckDraws(Normal(dtype, {n, vocab}, 1, 3), SampleRows(n, rules, 42, 3));
        }
      }
    }
  }
}

TEST_CASE("sample: rows with rules of their own") {
  const int64_t n = std::size(kRules), vocab = Tested().emulated ? 33 : 3000;
  SampleRows rows(n, {}, 0, 0);
  for (int64_t row = 0; row < n; ++row) {
    rows.SetRules(row, kRules[row]);
    rows.SetSeed(row, 0xfedcba9876543210u + static_cast<uint64_t>(row), 0xfffffff0u);
  }
  CheckDraws(Normal(DType::kF32, {n, vocab}, 2, 2), rows);
}

// Rows that a backend may draw from a few of their tokens, and rows of which it needs all.
TEST_CASE("sample: large rows, peaked and flat, with ties and sums that meet their target") {
  const int64_t n = 40, vocab = Tested().emulated ? 40 : 20011;
  const auto check = [&](const Tensor& logits) {
    for (const SampleRules& rules :
         {SampleRules{1, 0, 1}, SampleRules{1, 40, 0.95f}, SampleRules{0.7f, 0, 0.9f},
          SampleRules{1, 5000, 1}, SampleRules{1, 0, 0.5f}, SampleRules{1, 0, 0.999f},
          SampleRules{1.5f, 0, 1, 0.02f}, SampleRules{1, 64, 0.5f, 0.1f}}) {
      CAPTURE(rules.top_k);
      CAPTURE(rules.top_p);
      CAPTURE(rules.min_p);
      CheckDraws(logits, SampleRows(n, rules, 3, 0));
    }
  };
  if (Tested().emulated) return check(Normal(DType::kF32, {n, vocab}, 1, 3));
  check(Normal(DType::kF32, {n, vocab}, 1, 6));
  check(Normal(DType::kF32, {n, vocab}, 2, 0.01));
  check(Integers(DType::kF32, {n, vocab}, 3));
  check(Normal(DType::kBF16, {n, vocab}, 4, 2));
  check(Full(DType::kF32, {n, vocab}, 2));
  Tensor masked = Full(DType::kF32, {n, vocab}, -kInfinity);
  for (int64_t i = 0; i < n * vocab; i += 997) masked.Set(i, static_cast<double>(i % 5));
  check(masked);
}

// Rows of which top_p, top_k or min_p keep thousands of tokens, or most.
TEST_CASE("sample: many tokens kept of flat, nearly flat, equal and masked rows") {
  if (Tested().emulated) return;  // its rows are short
  const int64_t n = 8, vocab = 10007;
  const auto check = [&](const char* what, const Tensor& logits) {
    CAPTURE(what);
    uint64_t seed = 11;
    for (const float temperature : {1.0f, 5.0f}) {
      for (const SampleRules& rules :
           {SampleRules{temperature, 0, 0.9f}, SampleRules{temperature, 0, 0.99f},
            SampleRules{temperature, 0, 0.3f}, SampleRules{temperature, 0, 0.9f, 0.05f},
            SampleRules{temperature, 0, 0.9f, 0.6f}, SampleRules{temperature, 3000, 1},
            SampleRules{temperature, 7000, 0.8f}, SampleRules{temperature, 3000, 0.8f, 0.1f},
            SampleRules{temperature, 0, 1, 0.05f}, SampleRules{temperature, 0, 1, 0.6f}}) {
        CAPTURE(temperature);
        CAPTURE(rules.top_k);
        CAPTURE(rules.top_p);
        CAPTURE(rules.min_p);
        CheckDraws(logits, SampleRows(n, rules, seed++, 0));
      }
    }
  };
  check("flat", Normal(DType::kF32, {n, vocab}, 1, 0.1));
  check("nearly flat", Normal(DType::kF32, {n, vocab}, 2, 1));
  check("between", Normal(DType::kF32, {n, vocab}, 3, 3));
  check("few values", Integers(DType::kF32, {n, vocab}, 4));
  check("equal", Full(DType::kF32, {n, vocab}, -2));
  Tensor zeros = Full(DType::kF32, {n, vocab}, 0);
  for (int64_t i = 0; i < n * vocab; i += 3) zeros.Set(i, -0.0);
  check("zeros of both signs", zeros);
  // One token far above a flat rest: none of the first candidates are enough, then most are.
  Tensor outlier = Normal(DType::kF32, {n, vocab}, 5, 0.01);
  for (int64_t row = 0; row < n; ++row) outlier.Set(row * vocab + 77 * row, 9);
  check("outlier", outlier);
  Tensor masked = Normal(DType::kF32, {n, vocab}, 6, 1);
  for (int64_t i = 0; i < n * vocab; ++i)
    if (i % 31 != 0 && i % 8 != 0) masked.Set(i, -kInfinity);
  check("masked", masked);
}

TEST_CASE("sample: a row's token depends on its own seed, step and logits alone") {
  const int64_t n = 6, vocab = 33;
  const Tensor row = Normal(DType::kF32, {1, vocab}, 7);
  const std::unique_ptr<Context> context = NextContext();
  for (const SampleRules& rules : {SampleRules{1, 0, 1}, SampleRules{1, 20, 0.9f, 0.01f}}) {
    SampleRows alone(1, rules, 5, 9);
    const Tensor expected(DType::kI32, {1}), ids(DType::kI32, {n});
    RunTested(alone.Args(row, expected), *context);
    for (int64_t place = 0; place < n; ++place) {
      Tensor logits = Normal(DType::kF32, {n, vocab}, 100 + static_cast<uint64_t>(place));
      for (int64_t i = 0; i < vocab; ++i) logits.Set(place * vocab + i, row.at(i));
      SampleRows rows(n, {0.5f, 3}, 77, 1);
      rows.SetRules(place, rules);
      rows.SetSeed(place, 5, 9);
      RunTested(rows.Args(logits, ids), *context);
      CHECK(ids.at(place) == expected.at(0));
    }
  }
}

TEST_CASE("sample: a row from which nothing can be drawn fails alone") {
  const int64_t vocab = Tested().emulated ? 8300 : 20000;
  for (const float temperature : {0.0f, 1.0f}) {
    Tensor logits = Normal(DType::kF32, {5, vocab}, 1);
    const auto at = [&](int64_t row, int64_t token) { return row * vocab + token; };
    logits.Set(at(0, vocab - 1), std::nan(""));
    logits.Set(at(1, vocab - 1), std::nan(""));
    logits.Set(at(1, 8), kInfinity);
    for (int64_t i = 0; i < vocab; ++i) logits.Set(at(3, i), -kInfinity);
    for (int64_t i = 1; i < vocab; ++i) logits.Set(at(4, i), -kInfinity);
    logits.Set(at(4, 0), std::nan(""));
    const SampleRows rows(5, {temperature, 0, 1}, 1, 0);
    const Tensor ids(DType::kI32, {5}), expected(DType::kI32, {5});
    RunTested(rows.Args(logits, ids), *NextContext());
    CHECK(ids.at(0) == -vocab);
    CHECK(ids.at(1) == -9);
    CHECK(ids.at(3) == kNothingToDraw);
    CHECK(ids.at(4) == -1);
    Run(ReferenceBackend(), rows.Args(logits, expected));
    CHECK_IDENTICAL(ids, expected);
    CHECK(ids.at(2) >= 0);
  }
}

std::string FailureOf(const SampleRules& rules) {
  SampleRows rows(3, {}, 1, 0);
  rows.SetRules(1, rules);
  const Tensor ids(DType::kI32, {3});
  try {
    RunTested(rows.Args(Normal(DType::kF32, {3, 9}, 1), ids), *NextContext());
  } catch (const Error& error) {
    return error.code() + ": " + error.what();
  }
  return "no error";
}

TEST_CASE("sample: options out of their range fail") {
  CHECK(FailureOf({}) == "no error");
  CHECK(FailureOf({-1}) ==
        "ERR_DATA: [sample] expected temperature of 0 (greedy) or more in row 1 but received -1");
  CHECK(FailureOf({static_cast<float>(kInfinity)}) ==
        "ERR_DATA: [sample] expected temperature of 0 (greedy) or more in row 1 but received inf");
  CHECK(FailureOf({1, -1}) ==
        "ERR_DATA: [sample] expected topK of 0 (all) or more in row 1 but received -1");
  CHECK(FailureOf({1, 0, 0}) ==
        "ERR_DATA: [sample] expected topP in (0, 1] in row 1 but received 0");
  CHECK(FailureOf({1, 0, std::nanf("")}) ==
        "ERR_DATA: [sample] expected topP in (0, 1] in row 1 but received nan");
  CHECK(FailureOf({0, 0, 1, 1.5f}) ==
        "ERR_DATA: [sample] expected minP in [0, 1] in row 1 but received 1.5");
}

}  // namespace
}  // namespace lora::test
