// Which instruction set runs, and how it is limited.
#include "backend/cpu/targets.h"

#include <doctest/doctest.h>

#include <cstdlib>

#include "core/backend.h"
#include "core/error.h"

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
  CHECK(cpu.pack.run);
  CHECK(cpu.unpack.run);
  CHECK(cpu.lora_linear_forward.run);
  CHECK(cpu.lora_linear_backward.run);
  CHECK(cpu.embedding.run);
  CHECK(cpu.rms_norm_forward.run);
  CHECK(cpu.rms_norm_backward.run);
  CHECK(cpu.rope.run);
  CHECK(cpu.attention_forward.run);
  CHECK(cpu.attention_backward.run);
  CHECK(cpu.cache_append.run);
  CHECK(cpu.swiglu_forward.run);
  CHECK(cpu.swiglu_backward.run);
  CHECK(cpu.cross_entropy_forward.run);
  CHECK(cpu.cross_entropy_backward.run);
  CHECK(cpu.linear_cross_entropy.run);
  CHECK(cpu.adamw.run);
  CHECK(cpu.global_norm.run);
  CHECK(cpu.clip_by_norm.run);
  CHECK(cpu.binary.run);
  CHECK(cpu.unary.run);
  CHECK(cpu.unary_backward.run);
  CHECK(cpu.reduce_sum.run);
  CHECK(cpu.accumulate.run);
  CHECK(cpu.fill.run);
  CHECK(cpu.transpose.run);
  CHECK(cpu.matmul.run);
  CHECK(cpu.random.run);
  CHECK(cpu.sample.run);
}

TEST_CASE("targets: the version of Highway") {
  CHECK(cpu::HighwayVersion().find('.') != std::string::npos);
}

}  // namespace
}  // namespace lora::test
