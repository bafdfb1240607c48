// Tests the order of SortFromLargest against that of a comparison.
#include "backend/cpu/logits/logit_rows.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "test/support/tensors.h"

namespace lora::test {
namespace {

std::vector<float> Floats(size_t n, const std::function<float(size_t)>& of) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = of(i);
  return values;
}

void CheckOrder(const std::string& what, const std::vector<float>& logits) {
  CAPTURE(what);
  const size_t n = logits.size();
  CAPTURE(n);
  // Every second token, so that ids are not places.
  std::vector<int32_t> ids;
  for (size_t i = 0; i < n; i += 2) ids.push_back(static_cast<int32_t>(i));
  std::vector<int32_t> expected = ids;
  const auto logit = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  std::stable_sort(expected.begin(), expected.end(),
                   [&](int32_t a, int32_t b) { return logit(a) > logit(b); });
  std::vector<cpu::RankedToken> from(ids.size()), to(ids.size());
  std::vector<uint32_t> counts(cpu::kRankCounts, 77);
  cpu::SortFromLargest(logits.data(), ids.data(), ids.size(), from.data(), to.data(),
                       counts.data());
  CHECK(ids == expected);
}

TEST_CASE("tokens are sorted by larger logit, then by smaller id") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kTiny = std::numeric_limits<float>::denorm_min();
  for (const size_t n : {0, 1, 2, 4, 254, 256, 3000, 50000}) {
    const std::vector<double> normal =
        Normal(DType::kF32, {static_cast<int64_t>(n)}, 1, 3).Values();
    const auto drawn = [&](size_t i) { return static_cast<float>(normal[i]); };
    CheckOrder("normal", Floats(n, drawn));
    CheckOrder("near one", Floats(n, [&](size_t i) { return 1 + 1e-6f * drawn(i); }));
    CheckOrder("few values", Floats(n, [&](size_t i) { return std::round(drawn(i)); }));
    CheckOrder("equal", Floats(n, [](size_t) { return -2.5f; }));
    CheckOrder("zeros of both signs and what lies next to them", Floats(n, [&](size_t i) {
                 constexpr float kValues[] = {0.0f, -0.0f, kTiny, -kTiny, 0.0f, -0.0f};
                 return kValues[i * 7 / 2 % 6];
               }));
    CheckOrder("of every size", Floats(n, [&](size_t i) {
                 if (i % 5 == 0) return -kInfinity;
                 return std::ldexp(drawn(i), static_cast<int>(i % 250) - 125);
               }));
    CheckOrder("rising", Floats(n, [](size_t i) { return static_cast<float>(i); }));
  }
}

}  // namespace
}  // namespace lora::test
