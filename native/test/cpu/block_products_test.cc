// Products of the CPU backend with matrices of blocks. Many rows multiply the values, to the bits
// that they have in the dtype of the activations.
#include <doctest/doctest.h>

#include <functional>
#include <vector>

#include "backend/cpu/context.h"
#include "test/support/close.h"
#include "test/support/kept_matrix.h"
#include "test/support/run.h"
#include "test/support/simd_targets.h"

namespace lora::test {
namespace {

// Calls check for every format of blocks and every dtype that it multiplies.
void ForEachBlockFormat(const std::function<void(const Kept&)>& check) {
  for (int i = static_cast<int>(kFirstBlocks); i <= static_cast<int>(kLastBlocks); ++i) {
    for (const DType activations : {DType::kF32, DType::kBF16}) {
      const Kept kept{static_cast<WeightFormat>(i), activations};
      CAPTURE(NameOf(kept.format));
      CAPTURE(NameOf(activations));
      check(kept);
    }
  }
}

Tensor Product(const Tensor& x, const FrozenWeight& weight, LinearPhase phase, Context& context) {
  LoraLinearForwardArgs args;
  const Tensor y(x.dtype(), {x.shape()[0], weight.view().rows});
  LoraBranch branch;
  branch.weight = weight.view();
  args.x = x;
  args.phase = phase;
  args.branches.push_back(branch);
  args.y.push_back(y);
  args.h.emplace_back();
  Run(CpuBackend(), args, context);
  return y;
}

TEST_CASE("cpu blocks: many rows have the bits of the values, in every format") {
  cpu::CpuContext context(2);
  ForEachBlockFormat([&](const Kept& kept) {
    const int64_t values = TraitsOf(kept.format).block.values;
    for (const int64_t k : {values, RoundUp(int64_t{800}, values)}) {
      const KeptMatrix m(kept, 71, k, 7);
      const Tensor x = Normal(kept.activations, {9, k}, 3);
      ForEachSimdTarget([&] {
        const FrozenWeight blocks(CpuBackend(), m.args, kept.activations, context);
        const FrozenWeight floats(CpuBackend(), m.values, context);
        CHECK_IDENTICAL(Product(x, blocks, LinearPhase::kPrefill, context),
                        Product(x, floats, LinearPhase::kPrefill, context));
      });
    }
  });
}

}  // namespace
}  // namespace lora::test
