// Tests how tokens are drawn: ties, limits, and the frequencies that a softmax promises.
#include "core/maths/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>

#include "core/error.h"
#include "core/maths/philox.h"
#include "test/support/close.h"
#include "test/support/run.h"
#include "test/support/sample_rows.h"

namespace lora::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

using Rules = SampleRules;

// Returns the ids of `n` equal rows, row i of step + i.
std::vector<double> Draws(const std::vector<double>& logits, const Rules& rules, int64_t n,
                          uint64_t seed = 1, uint32_t step = 0, DType dtype = DType::kF32) {
  const int64_t vocab = static_cast<int64_t>(logits.size());
  Tensor rows(dtype, {n, vocab}), ids(DType::kI32, {n});
  for (int64_t i = 0; i < n * vocab; ++i) rows.Set(i, logits[static_cast<size_t>(i % vocab)]);
  Run(ReferenceBackend(), SampleRows(n, rules, seed, step).Args(rows, ids));
  return ids.Values();
}

// Returns how often each id comes, as a share.
std::map<int, double> Shares(const std::vector<double>& logits, const Rules& rules) {
  constexpr int64_t kDraws = 20000;
  std::map<int, double> shares;
  for (const double id : Draws(logits, rules, kDraws)) {
    shares[static_cast<int>(id)] += 1.0 / static_cast<double>(kDraws);
  }
  return shares;
}

void CheckShares(const std::vector<double>& logits, const Rules& rules,
                 const std::map<int, double>& expected) {
  const std::map<int, double> shares = Shares(logits, rules);
  CHECK(shares.size() == expected.size());
  for (const auto& [id, share] : expected) {
    CAPTURE(id);
    REQUIRE(shares.count(id) == 1);
    CHECK(std::fabs(shares.at(id) - share) <= 4 * std::sqrt(share * (1 - share) / 20000) + 1e-9);
  }
}

// At temperature 1 the weights are 1, 4, 2, 1, 2 of 10.
const std::vector<double> kLogits = {0, std::log(4), std::log(2), 0, std::log(2)};

TEST_CASE("temperature 0 takes the first of the largest") {
  CHECK(Draws({1, 3, 3, 2}, {0, 0, 1}, 1)[0] == 1);
  CHECK(Draws({-kInfinity, -5, -5}, {0, 2, 0.5f}, 1)[0] == 1);
  CHECK(Draws({7}, {0, 0, 1}, 1)[0] == 0);
}

TEST_CASE("tokens come as often as the softmax says") {
  CheckShares(kLogits, {}, {{0, 0.1}, {1, 0.4}, {2, 0.2}, {3, 0.1}, {4, 0.2}});
  // Half the temperature squares the weights: 1, 16, 4, 1, 4 of 26.
  CheckShares(kLogits, {0.5f, 0, 1},
              {{0, 1.0 / 26}, {1, 16.0 / 26}, {2, 4.0 / 26}, {3, 1.0 / 26}, {4, 4.0 / 26}});
  CheckShares({0, -kInfinity, 0}, {}, {{0, 0.5}, {2, 0.5}});
}

TEST_CASE("top_k keeps the largest, of equals the first") {
  CheckShares(kLogits, {1, 2, 1}, {{1, 4.0 / 6}, {2, 2.0 / 6}});
  CheckShares(kLogits, {1, 4, 1}, {{0, 1.0 / 9}, {1, 4.0 / 9}, {2, 2.0 / 9}, {4, 2.0 / 9}});
  CheckShares(kLogits, {1, 1, 1}, {{1, 1}});
  CheckShares({5, 5, 5}, {1, 2, 1}, {{0, 0.5}, {1, 0.5}});
  CHECK(Draws(kLogits, {1, 5, 1}, 100) == Draws(kLogits, {1, 0, 1}, 100));
  CHECK(Draws(kLogits, {1, 99, 1}, 100) == Draws(kLogits, {1, 0, 1}, 100));
}

TEST_CASE("top_p keeps the fewest that reach the mass") {
  CheckShares(kLogits, {1, 0, 0.01f}, {{1, 1}});
  CheckShares(kLogits, {1, 0, 0.39f}, {{1, 1}});
  CheckShares(kLogits, {1, 0, 0.41f}, {{1, 4.0 / 6}, {2, 2.0 / 6}});
  CheckShares(kLogits, {1, 0, 0.85f}, {{0, 1.0 / 9}, {1, 4.0 / 9}, {2, 2.0 / 9}, {4, 2.0 / 9}});
}

TEST_CASE("top_p keeps no token more where the sum meets the mass exactly") {
  // Equal weights of 1 and halves of their sum are exact.
  const std::vector<double> equal = {7, 7, 7, 7};
  CheckShares(equal, {1, 0, 0.5f}, {{0, 0.5}, {1, 0.5}});
  CheckShares(equal, {1, 0, 0.25f}, {{0, 1}});
  CheckShares({7, 7, 7, 7, 7}, {1, 4, 0.5f}, {{0, 0.5}, {1, 0.5}});
}

TEST_CASE("top_p counts the mass of what top_k left") {
  // Of 4 and 2 of 6, 0.6 is reached by the first alone; of all 10 it would not be.
  CheckShares(kLogits, {1, 2, 0.6f}, {{1, 1}});
  CheckShares(kLogits, {1, 3, 0.7f}, {{1, 4.0 / 6}, {2, 2.0 / 6}});
}

TEST_CASE("min_p keeps what has that share of the largest") {
  // The weights are 1/4, 1, 1/2, 1/4, 1/2 of the largest.
  CheckShares(kLogits, {1, 0, 1, 0.4f}, {{1, 0.5}, {2, 0.25}, {4, 0.25}});
  CheckShares(kLogits, {1, 0, 1, 0.6f}, {{1, 1}});
  CheckShares(kLogits, {1, 0, 1, 1}, {{1, 1}});
  CheckShares(kLogits, {1, 0, 1, 0.2f}, {{0, 0.1}, {1, 0.4}, {2, 0.2}, {3, 0.1}, {4, 0.2}});
  CheckShares({5, 5, 5}, {1, 0, 1, 1}, {{0, 1.0 / 3}, {1, 1.0 / 3}, {2, 1.0 / 3}});
  // Half the temperature squares them: 1/16, 1, 1/4, 1/16, 1/4.
  CheckShares(kLogits, {0.5f, 0, 1, 0.4f}, {{1, 1}});
}

TEST_CASE("min_p limits what top_k and top_p left") {
  CheckShares(kLogits, {1, 2, 1, 0.2f}, {{1, 4.0 / 6}, {2, 2.0 / 6}});
  CheckShares(kLogits, {1, 4, 1, 0.4f}, {{1, 0.5}, {2, 0.25}, {4, 0.25}});
  CheckShares(kLogits, {1, 0, 0.41f, 0.2f}, {{1, 4.0 / 6}, {2, 2.0 / 6}});
  // top_p counts the mass before min_p: of all 10, the first has 4.
  CheckShares(kLogits, {1, 0, 0.45f, 0.4f}, {{1, 4.0 / 6}, {2, 2.0 / 6}});
}

// The rules of sampling.h written down a second time, without a heap or a partial sort.
int SlowDraw(const std::vector<double>& logits, const Rules& rules, double u) {
  std::vector<int> order;
  for (size_t i = 0; i < logits.size(); ++i) order.push_back(static_cast<int>(i));
  const auto logit = [&](int i) { return logits[static_cast<size_t>(i)]; };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logit(a) > logit(b); });
  const double largest = logit(order[0]);
  const auto weight = [&](int i) { return std::exp((logit(i) - largest) / rules.temperature); };
  double total = 0;
  if (rules.top_k > 0 && rules.top_k < static_cast<int64_t>(order.size())) {
    order.resize(static_cast<size_t>(rules.top_k));
    for (const int i : order) total += weight(i);
  } else {
    for (size_t i = 0; i < logits.size(); ++i) total += weight(static_cast<int>(i));
    if (rules.top_p == 1 && rules.min_p == 0) std::sort(order.begin(), order.end());
  }
  if (rules.top_p < 1) {
    double sum = 0;
    size_t kept = 0;
    while (kept < order.size() && !(sum >= rules.top_p * total)) sum += weight(order[kept++]);
    order.resize(kept);
    total = sum;
  }
  if (rules.min_p > 0) {
    while (weight(order.back()) < rules.min_p) order.pop_back();
    total = 0;
    for (const int i : order) total += weight(i);
  }
  double sum = 0;
  for (const int i : order) {
    sum += weight(i);
    if (sum > u * total) return i;
  }
  return order.back();
}

TEST_CASE("every draw is the one that the rules name") {
  const Tensor logits = Normal(DType::kF64, {1, 67}, 9, 3);
  std::vector<double> values = logits.Values();
  values[20] = values[40] = values[3];  // ties
  for (const Rules& rules :
       {Rules{1, 0, 1}, Rules{0.7f, 0, 0.9f}, Rules{1.3f, 10, 1}, Rules{1, 20, 0.8f},
        Rules{2, 0, 0.3f}, Rules{1, 66, 0.999f}, Rules{1, 0, 1, 0.02f}, Rules{2, 40, 0.9f, 0.1f}}) {
    const std::vector<double> drawn = Draws(values, rules, 300, 77, 5, DType::kF64);
    for (uint32_t row = 0; row < 300; ++row) {
      const double u = UniformFromWord(Philox4x32(77, {5 + row, 0, 0, 0x53414d50})[0]);
      CHECK(drawn[row] == SlowDraw(values, rules, u));
    }
  }
}

TEST_CASE("the same numbers draw the same ids; seed and step give others") {
  CHECK(Draws(kLogits, {}, 50, 1, 2) == Draws(kLogits, {}, 50, 1, 2));
  CHECK(Draws(kLogits, {}, 50, 1, 2) != Draws(kLogits, {}, 50, 2, 2));
  CHECK(Draws(kLogits, {}, 50, 1, 2) != Draws(kLogits, {}, 50, 1, 3));
  CHECK(Draws(kLogits, {}, 50, 1, 2) != Draws(kLogits, {}, 50, 1 | uint64_t{1} << 32, 2));
}

TEST_CASE("logits that are no numbers give no token") {
  for (const float temperature : {0.0f, 1.0f}) {
    CHECK(Draws({0, std::nan("")}, {temperature, 0, 1}, 1)[0] == -2);
    CHECK(Draws({kInfinity, 0}, {temperature, 0, 1}, 1)[0] == -1);
    CHECK(Draws({-kInfinity, -kInfinity}, {temperature, 0, 1}, 1)[0] == kNothingToDraw);
  }
}

}  // namespace
}  // namespace lora::test
