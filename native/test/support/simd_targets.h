// Runs a check on every instruction set that this build contains and this machine can execute, not
// only on the one that dispatch would choose; on the one that LORA_TEST_SIMD names where it is set.
#pragma once

#include <doctest/doctest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "backend/cpu/runtime/targets.h"

namespace lora::test {

inline std::vector<std::string> TestedTargets() {
  const char* only = std::getenv("LORA_TEST_SIMD");
  return only == nullptr ? cpu::UsableTargets() : std::vector<std::string>{only};
}

template <class Fn>
void ForEachSimdTarget(const Fn& fn) {
  for (const std::string& target : TestedTargets()) {
    CAPTURE(target);
    REQUIRE(cpu::LimitTargets(target));
    fn();
  }
  cpu::LimitTargets("best");
}

}  // namespace lora::test
