// Tests which instruction set runs, and how it is limited.
#include "backend/cpu/runtime/targets.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/ops/backend.h"
#include "hwy/targets.h"

namespace lora::test {
namespace {

// Once a limit is set the environment is no longer looked at, so this is one case, in this order.
TEST_CASE("targets: LORA_SIMD limits the first context, LimitTargets everything after it") {
  const std::vector<std::string> usable = cpu::UsableTargets();
  REQUIRE(!usable.empty());

  setenv("LORA_SIMD", "mmx", 1);
  try {
    CpuBackend().create_context(1);
    FAIL("expected an error");
  } catch (const Error& error) {
    CHECK(error.code() == "ERR_ARGUMENT");
    CHECK(std::string(error.what()).find("LORA_SIMD") != std::string::npos);
    CHECK(std::string(error.what()).find(usable.back()) != std::string::npos);
  }
#if LORA_SIMD_LEFT_OUT
  const int64_t left_out = hwy::SupportedTargets() & LORA_SIMD_LEFT_OUT;
  REQUIRE(left_out != 0);
  setenv("LORA_SIMD", hwy::TargetName(left_out & -left_out), 1);
  try {
    CpuBackend().create_context(1);
    FAIL("expected an error");
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find("built without: LORA_SIMD_BUILD=all") !=
          std::string::npos);
  }
#endif
  setenv("LORA_SIMD", usable.back().c_str(), 1);
  CpuBackend().create_context(1);
  CHECK(cpu::ActiveTarget() == usable.back());
  setenv("LORA_SIMD", usable.front().c_str(), 1);  // too late
  CpuBackend().create_context(1);
  CHECK(cpu::ActiveTarget() == usable.back());

  for (const std::string& target : usable) {
    CHECK(cpu::LimitTargets(target));
    CHECK(cpu::ActiveTarget() == target);
    CHECK(cpu::UsableTargets() == usable);
  }
  CHECK(!cpu::LimitTargets("mmx"));
  CHECK(cpu::ActiveTarget() == usable.back());
  CHECK(cpu::LimitTargets("best"));
  CHECK(cpu::ActiveTarget() == usable.front());
}

TEST_CASE("targets: every op of the table is there") {
  const Backend& cpu = CpuBackend();
  CHECK(std::string(cpu.name) == "cpu");
  AllOps::ForEach([&]<class Args>(std::type_identity<Args>) {
    CAPTURE(kDescription<Args>.name);
    CHECK(cpu.op<Args>().plan);
  });
}

// Returns the flags that Linux reports of the first CPU, and its vendor.
std::set<std::string> CpuFlags() {
  std::set<std::string> flags;
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line) && !line.empty();) {
    std::istringstream words(line);
    std::string word;
    if (!(words >> word) || (word != "vendor_id" && word != "flags" && word != "Features"))
      continue;
    words >> word;  // the colon
    flags.insert(std::istream_iterator<std::string>(words), {});
  }
  return flags;
}

TEST_CASE("targets: usable are those whose features the system reports") {
  const std::set<std::string> flags = CpuFlags();
  if (flags.empty()) return;  // a system that reports none
#if defined(__x86_64__)
  const std::vector<std::string> tiles = {"avx512_fp16", "amx_tile", "amx_bf16"};
  // Without tiles, Intel's CPUs are faster with AVX3 (highway_targets.cc).
  std::vector<std::string> pairs = {"avx512_bf16"};
  if (flags.contains("GenuineIntel")) pairs.insert(pairs.end(), tiles.begin(), tiles.end());
#endif
  // The best comes first, each with what it adds to the next.
  const std::vector<std::pair<std::string, std::vector<std::string>>> known =
#if defined(__x86_64__)
      {{"avx3_spr", tiles},
       {"avx3_zen4", pairs},
       {"avx3_dl",
        {"avx512vbmi", "avx512_vbmi2", "gfni", "vaes", "vpclmulqdq", "avx512_vnni", "avx512_bitalg",
         "avx512_vpopcntdq"}},
       {"avx3", {"avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl"}},
       {"avx2", {"avx", "fma", "f16c", "bmi1", "avx2", "bmi2"}},
       {"sse4", {"ssse3", "pclmulqdq", "sse4_1", "sse4_2", "aes"}},
       {"sse2", {}}};
#else
      {{"neon_bf16", {"fphp", "asimdhp", "asimddp", "bf16"}},
       {"neon", {"aes"}},
       {"neon_without_aes", {}}};
#endif
  std::vector<std::string> expected;
  for (size_t i = 0; i < known.size(); ++i) {
    bool all = true;
    for (size_t below = i; below < known.size(); ++below)
      for (const std::string& flag : known[below].second) all = all && flags.contains(flag);
    if (all) expected.push_back(known[i].first);
  }
  // Builds with sanitizers have no kernels for three of them, and others none for AVX3_DL
  // (cmake/highway.cmake).
#if LORA_EMULATE_TILES
  const std::set<std::string> left_out = {"sse4", "avx3", "avx3_spr"};
#else
  const std::set<std::string> left_out = {"sse4", "avx3", "avx3_spr", "avx3_dl"};
#endif
  const std::vector<std::string> usable = cpu::UsableTargets();
  std::erase_if(expected, [&](const std::string& name) {
    return left_out.contains(name) && std::find(usable.begin(), usable.end(), name) == usable.end();
  });
#if LORA_SIMD_LEFT_OUT
  if (expected.size() > 2) expected.erase(expected.begin() + 1, expected.end() - 1);
#endif
  CHECK(usable == expected);
  CHECK(cpu::MissingTargets().empty());
}

#if defined(__x86_64__)
TEST_CASE("targets: missing are the better ones that a build for another CPU left out") {
  const auto missing = [](int64_t has, int64_t compiled, int64_t left_out) {
    return cpu::MissingTargets(has, compiled, left_out);
  };
  using Names = std::vector<std::string>;
  constexpr int64_t kSse = HWY_SSE2 | HWY_SSE4, kAvx = HWY_AVX2 | HWY_AVX3;
  CHECK(missing(kSse | kAvx, HWY_SSE2 | HWY_AVX3, HWY_SSE4 | HWY_AVX2) == Names{});
  CHECK(missing(kSse | kAvx, HWY_SSE2, HWY_SSE4 | kAvx) == Names{"avx3", "avx2", "sse4"});
  CHECK(missing(kSse | HWY_AVX2, HWY_SSE2 | HWY_AVX3, HWY_SSE4 | HWY_AVX2) ==
        Names{"avx2", "sse4"});
  CHECK(missing(kSse | kAvx, HWY_SSE2 | HWY_SSE4, HWY_AVX2) ==
        Names{"avx2"});  // AVX3 is of no build
  CHECK(missing(kSse | kAvx, kSse | kAvx, 0) == Names{});
}
#endif

TEST_CASE("targets: the version of Highway") {
  CHECK(cpu::HighwayVersion().find('.') != std::string::npos);
}

}  // namespace
}  // namespace lora::test
