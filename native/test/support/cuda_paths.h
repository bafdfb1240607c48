// Runs an op of the CUDA backend on the emulator's schedules, with operands
// at aligned and at odd addresses.
#pragma once

#include <doctest/doctest.h>

#include <vector>

#include "test/support/close.h"
#include "test/support/rounding.h"
#include "test/support/run.h"
#include "test/support/schedules.h"

namespace lora::test {

// run(context) answers the outputs. For each skew, check(outputs) is called once, and another
// schedule must give the same bits.
template <class RunFn, class CheckFn>
void OnEveryCudaPath(const RunFn& run, const CheckFn& check) {
  static int turn = 0;
  for (const int64_t skew : {0, 1}) {
    CAPTURE(skew);
    std::vector<Tensor> first;
    {
      MirrorContext context = NthContext(turn++, skew);
      first = run(context);
    }
    for (const Tensor& output : first) CHECK(output.intact());
    check(first);
    MirrorContext context = NthContext(turn++, skew);
    const std::vector<Tensor> again = run(context);
    for (size_t i = 0; i < first.size(); ++i) CHECK_IDENTICAL(again[i], first[i]);
  }
}

// Sizes around the vectors of 4 and 8 elements, warps, and blocks of 256 threads.
inline const std::vector<int64_t>& CudaSizes() {
  static const std::vector<int64_t> sizes = {0, 1, 2, 3, 4, 5, 7, 8, 9, 17, 65, 511, 2048, 2057};
  return sizes;
}

}  // namespace lora::test
