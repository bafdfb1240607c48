// Runs an op of the CPU backend on every way that it can take here.
#pragma once

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <memory>
#include <vector>

#include "backend/cpu/context.h"
#include "test/support/close.h"
#include "test/support/rounding.h"
#include "test/support/run.h"
#include "test/support/simd_targets.h"

namespace lora::test {

// run(context) answers the outputs. On every SIMD target: check(outputs) once, and the same bits
// from a second run and from 2 and 3 threads.
template <class RunFn, class CheckFn>
void OnEveryCpuPath(const RunFn& run, const CheckFn& check) {
  static const std::array<std::unique_ptr<cpu::CpuContext>, 3> contexts = {
      std::make_unique<cpu::CpuContext>(1), std::make_unique<cpu::CpuContext>(2),
      std::make_unique<cpu::CpuContext>(3)};
  ForEachSimdTarget([&] {
    const std::vector<Tensor> first = run(*contexts[0]);
    for (const Tensor& output : first) CHECK(output.intact());
    check(first);
    for (const int threads : {1, 2, 3}) {
      CAPTURE(threads);
      const std::vector<Tensor> again = run(*contexts[static_cast<size_t>(threads - 1)]);
      for (size_t i = 0; i < first.size(); ++i) CHECK_IDENTICAL(again[i], first[i]);
    }
  });
}

// Sizes around the lanes of every target and around blocks; the last is enough for three threads.
inline const std::vector<int64_t>& OddSizes() {
  static const std::vector<int64_t> sizes = {0,  1,  2,  3,  4,   5,   7,   8,    9,    15,    16,
                                             17, 63, 64, 65, 511, 512, 513, 1000, 1025, 100003};
  return sizes;
}

}  // namespace lora::test
