// Products of the CPU backend with matrices of blocks. Many rows multiply the values, to the bits
// that they have in the dtype of the activations. A decode step multiplies the codes of the formats
// that block_lanes-inl.h knows.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "backend/cpu/runtime/context.h"
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

Tensor RowsOf(const Tensor& x, int64_t first, int64_t count) {
  Tensor rows(x.dtype(), {count, x.shape()[1]});
  for (int64_t i = 0; i < rows.numel(); ++i) rows.Set(i, x.at(first * x.shape()[1] + i));
  return rows;
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

// What y may differ from Σ x·w by: 10⁻⁶ of ‖x‖·‖w‖, its own rounding, and that of values.
double BoundOf(const Kept& kept, double x_norm, double w_norm, double y) {
  const double rounding = kept.activations == DType::kBF16 ? 0x1p-8 : 0;
  return (1e-6 + (MultipliesCodes(kept) ? 0 : rounding)) * x_norm * w_norm + rounding * std::abs(y);
}

TEST_CASE("cpu blocks: a decode step is Σ x·w of the values within 1e-6 of the norms") {
  cpu::CpuContext context(2);
  ForEachBlockFormat([&](const Kept& kept) {
    const int64_t k = RoundUp(int64_t{1500}, TraitsOf(kept.format).block.values), n = 71;
    const KeptMatrix m(kept, n, k, 11);
    const Tensor x = Normal(kept.activations, {9, k}, 5);
    const auto* const blocks = m.stored.view().as<uint8_t>();
    ForEachSimdTarget([&] {
      const FrozenWeight weight(CpuBackend(), m.args, kept.activations, context);
      for (const int64_t rows : {1, 2, 9}) {
        const Tensor y = Product(RowsOf(x, 0, rows), weight, LinearPhase::kDecode, context);
        int64_t wrong = 0;
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            double sum = 0, x_norm = 0, w_norm = 0;
            for (int64_t l = 0; l < k; ++l) {
              const double w = BlockValue(kept.format, blocks, j * k + l), a = x.at(i * k + l);
              sum += w * a;
              x_norm += a * a;
              w_norm += w * w;
            }
            const double bound = BoundOf(kept, std::sqrt(x_norm), std::sqrt(w_norm), sum);
            wrong += !(std::abs(y.at(i * n + j) - sum) <= bound);
          }
        }
        CAPTURE(rows);
        CHECK(wrong == 0);
      }
    });
  });
}

// One row is multiplied by four panels, two or one at a time, several by one panel in tiles.
TEST_CASE("cpu blocks: the bits of a row of a decode step do not depend on other rows") {
  constexpr int64_t kRows = 14;
  cpu::CpuContext one(1), two(2);
  ForEachBlockFormat([&](const Kept& kept) {
    const int64_t k = RoundUp(int64_t{300}, TraitsOf(kept.format).block.values);
    const KeptMatrix m(kept, 475, k, 13);
    const Tensor x = Normal(kept.activations, {kRows, k}, 5);
    ForEachSimdTarget([&] {
      const FrozenWeight weight(CpuBackend(), m.args, kept.activations, one);
      const Tensor all = Product(x, weight, LinearPhase::kDecode, two);
      for (const auto& [first, count] :
           {std::pair<int64_t, int64_t>{0, 1}, {13, 1}, {3, 2}, {5, 7}}) {
        CAPTURE(first);
        const Tensor some =
            Product(RowsOf(x, first, count), weight, LinearPhase::kDecode, count == 2 ? two : one);
        CHECK_IDENTICAL(some, RowsOf(all, first, count));
      }
    });
  });
}

}  // namespace
}  // namespace lora::test
