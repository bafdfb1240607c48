// Sums by the last block to arrive have the same bits in every order of blocks.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "test/simt/seeded_kernels.h"

namespace lora::simt {
namespace {

struct Sums {
  Sums() {
    // Their sum depends on the order of the additions.
    std::vector<float> values(512);
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = std::ldexp(static_cast<float>(i * 2654435761u % 1001) - 500,
                             static_cast<int>(i % 29) - 14);
    in.Upload(values.data());
    Set({0, 0, 0});
  }
  void Set(const std::vector<uint32_t>& words) { counters.Upload(words.data()); }
  std::vector<uint32_t> Counters() const {
    std::vector<uint32_t> words(3);
    counters.Download(words.data());
    return words;
  }
  Result Run(const Options& options, int bug = 0) {
    return Arrivals(options, bug,
                    {in.as<float>(), parts.as<float>(), out.as<float>(), counters.as<uint32_t>()});
  }
  std::vector<uint32_t> Bits() const {
    std::vector<uint32_t> bits(192);
    out.Download(bits.data());
    return bits;
  }
  Buffer in{2048, "in"}, parts{2048, "parts"}, out{768, "out"}, counters{12, "counters"};
};

Options DrawnOrder(uint64_t seed) {
  Options options;
  options.threads = options.blocks = Schedule::kRandom;
  options.seed = seed;
  return options;
}

bool Says(const Result& result, const char* what) {
  return result.reports.size() == 1 && result.Has(Kind::kArrival) &&
         result.reports[0].text.find(what) != std::string::npos &&
         result.reports[0].text.find("seeded_kernels.cc:") != std::string::npos;
}

}  // namespace

TEST_CASE("sums by the last block to arrive: the same bits in any order, and counters at 0") {
  Sums sums;
  REQUIRE(sums.Run({}).reports.empty());
  const std::vector<uint32_t> bits = sums.Bits();
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    CAPTURE(seed);
    // Launch after launch finds the counters as the one before left them.
    const Result result = sums.Run(DrawnOrder(seed));
    CHECK_MESSAGE(result.reports.empty(), result.Text());
    CHECK(sums.Bits() == bits);
    CHECK(sums.Counters() == std::vector<uint32_t>{0, 0, 0});
  }
}

TEST_CASE("arrivals that acquire nothing are reported, and the L1 makes their sums wrong") {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    CAPTURE(seed);
    Sums sums;
    Options options = DrawnOrder(seed);
    // Launches that may overlap arrive before they wait here, which is reported. What a block may
    // see of its own launch is the same.
    options.programmatic = seed % 2 == 0;
    const auto run = [&](float input, bool acquires) {
      sums.in.Upload(std::vector<float>(512, input).data());
      options.acquires = acquires;
      const Result result = sums.Run(options);
      CHECK(result.Has(Kind::kBeforeWait) == options.programmatic);
      CHECK(result.Has(Kind::kCrossBlock) == !acquires);
    };
    // A last block sees its own part, and those of others as the launch before left them.
    const auto check = [&](float of_four, float of_eight) {
      std::vector<float> found(192), parts(512), in(512);
      sums.out.Download(found.data());
      for (size_t i = 0; i < 192; ++i) REQUIRE(found[i] == (i < 128 ? of_four : of_eight));
      sums.parts.Download(parts.data());
      sums.in.Download(in.data());
      CHECK(parts == in);
      CHECK(sums.Counters() == std::vector<uint32_t>{0, 0, 0});
    };
    run(64, true);
    check(4 * 64, 8 * 64);
    run(1, true);
    check(4, 8);
    run(10, false);
    check(10 + 3, 10 + 7);
    run(100, false);
    check(100 + 30, 100 + 70);
    run(1, true);
    check(4, 8);
  }
}

TEST_CASE("counters that are not at 0 before or after a launch are reported") {
  Sums sums;
  sums.Set({0, 2, 0});
  CHECK(Says(sums.Run({}), "the counter is 2 there"));
  sums.Set({0, 0, 0});
  // No block is the last of five, so that none arrives at the third counter.
  const Result result = sums.Run({}, kOneTooMany);
  CHECK(Says(result, "4 of 5 blocks have arrived"));
  CHECK(sums.Counters() == std::vector<uint32_t>{4, 4, 0});
}

TEST_CASE("an arrival before griddepcontrol.wait is reported") {
  Sums sums;
  Options programmatic;
  programmatic.programmatic = true;
  const Result result = sums.Run(programmatic);
  REQUIRE(result.Has(Kind::kBeforeWait));
  CHECK(result.Text().find("global arrival of 4 bytes") != std::string::npos);
}

}  // namespace lora::simt
