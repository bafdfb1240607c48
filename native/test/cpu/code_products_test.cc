// Products of the CPU backend with matrices of codes. Many rows multiply the values, to the bits
// that they have in the dtype of the activations. A decode step multiplies the codes of the formats
// that block_lanes-inl.h and code_lanes-inl.h know.
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

// The same for formats whose scales lie apart too.
void ForEachFormat(const std::function<void(const Kept&)>& check) {
  ForEachBlockFormat(check);
  for (const WeightFormat format :
       {WeightFormat::kI8Rows, WeightFormat::kNF4, WeightFormat::kFP4}) {
    for (const DType activations : {DType::kF32, DType::kBF16}) {
      CAPTURE(NameOf(format));
      CAPTURE(NameOf(activations));
      check({format, activations});
    }
  }
}

// The first number of columns from `cols` on that a format has, whose rows are whole blocks.
int64_t Columns(const Kept& kept, int64_t cols) {
  return RoundUp(cols, HasBlocks(kept.format) ? TraitsOf(kept.format).block.values : 32);
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
double BoundOf(const Kept& kept, int64_t k, double x_norm, double w_norm, double y) {
  const double rounding = kept.activations == DType::kBF16 ? 0x1p-8 : 0;
  const double of_values = MultipliesCodes(kept, k) ? 0 : rounding;
  return (1e-6 + of_values) * x_norm * w_norm + rounding * std::abs(y);
}

TEST_CASE("cpu codes: a decode step is Σ x·w of the values within 1e-6 of the norms") {
  cpu::CpuContext context(2);
  ForEachFormat([&](const Kept& kept) {
    const int64_t k = Columns(kept, 1500), n = 71;
    const KeptMatrix m(kept, n, k, 11);
    const Tensor x = Normal(kept.activations, {9, k}, 5);
    ForEachSimdTarget([&] {
      const FrozenWeight weight(CpuBackend(), m.args, kept.activations, context);
      for (const int64_t rows : {1, 2, 9}) {
        const Tensor y = Product(RowsOf(x, 0, rows), weight, LinearPhase::kDecode, context);
        int64_t wrong = 0;
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            double sum = 0, x_norm = 0, w_norm = 0;
            for (int64_t l = 0; l < k; ++l) {
              const double w = m.Value(j * k + l), a = x.at(i * k + l);
              sum += w * a;
              x_norm += a * a;
              w_norm += w * w;
            }
            const double bound = BoundOf(kept, k, std::sqrt(x_norm), std::sqrt(w_norm), sum);
            wrong += !(std::abs(y.at(i * n + j) - sum) <= bound);
          }
        }
        CAPTURE(rows);
        CHECK(wrong == 0);
      }
    });
  });
}

// One row is multiplied by four panels, two or one at a time, several by one panel in tiles, of
// which the last may begin within the one before it. With small x products and sums are subnormal.
TEST_CASE("cpu codes: the bits of a row of a decode step do not depend on other rows") {
  constexpr int64_t kRows = 35;
  cpu::CpuContext one(1), two(2);
  ForEachFormat([&](const Kept& kept) {
    const int64_t k = Columns(kept, 300);
    const KeptMatrix m(kept, 330, k, 13);
    for (const double magnitude : {1.0, 0x1p-126}) {
      CAPTURE(magnitude);
      Tensor x = Normal(kept.activations, {kRows, k}, 5);
      for (int64_t i = 0; i < x.numel(); ++i) x.Set(i, magnitude * x.at(i));
      ForEachSimdTarget([&] {
        const FrozenWeight weight(CpuBackend(), m.args, kept.activations, one);
        const Tensor all = Product(x, weight, LinearPhase::kDecode, two);
        for (const auto& [first, count] :
             {std::pair<int64_t, int64_t>{0, 1}, {13, 1}, {34, 1}, {3, 2}, {5, 7}, {11, 17}}) {
          CAPTURE(first);
          const Tensor some = Product(RowsOf(x, first, count), weight, LinearPhase::kDecode,
                                      count == 2 ? two : one);
          CHECK_IDENTICAL(some, RowsOf(all, first, count));
        }
      });
    }
  });
}

// Such rows have scales that change within a block, and their values are multiplied.
TEST_CASE("cpu codes: a decode step with rows that end within a block has the bits of the values") {
  cpu::CpuContext context(2);
  for (const WeightFormat format :
       {WeightFormat::kI8Rows, WeightFormat::kNF4, WeightFormat::kFP4}) {
    for (const DType activations : {DType::kF32, DType::kBF16}) {
      const Kept kept{format, activations};
      for (const int64_t k : {75, 176}) {
        const KeptMatrix m(kept, 330, k, 13);
        const Tensor x = Normal(activations, {3, k}, 5);
        ForEachSimdTarget([&] {
          const FrozenWeight codes(CpuBackend(), m.args, activations, context);
          const FrozenWeight floats(CpuBackend(), m.values, context);
          for (const int64_t rows : {1, 3}) {
            CAPTURE(rows);
            const Tensor some = RowsOf(x, 0, rows);
            CHECK_IDENTICAL(Product(some, codes, LinearPhase::kDecode, context),
                            Product(some, floats, LinearPhase::kDecode, context));
          }
        });
      }
    }
  }
}

}  // namespace
}  // namespace lora::test
