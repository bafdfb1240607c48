// Runs a check on every instruction set that this build contains and this machine can execute, not
// only on the one that dispatch would choose.
#pragma once

#include <doctest/doctest.h>

#include <string>

#include "backend/cpu/targets.h"

namespace lora::test {

template <class Fn>
void ForEachSimdTarget(const Fn& fn) {
  for (const std::string& target : cpu::UsableTargets()) {
    CAPTURE(target);
    REQUIRE(cpu::LimitTargets(target));
    fn();
  }
  cpu::LimitTargets("best");
}

}  // namespace lora::test
