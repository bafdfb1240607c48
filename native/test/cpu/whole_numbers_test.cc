// Products of int8 activations with whole codes on the CPU: what the reference makes of them, with
// the same bits on every instruction set and beside any other rows.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "backend/cpu/product/panels.h"
#include "backend/cpu/runtime/context.h"
#include "test/support/close.h"
#include "test/support/kept_matrix.h"
#include "test/support/run.h"
#include "test/support/simd_targets.h"

namespace lora::test {
namespace {

constexpr WeightFormat kWhole[] = {
    WeightFormat::kI8Rows, WeightFormat::kQ8_0, WeightFormat::kQ4_0,
    WeightFormat::kQ4_1,   WeightFormat::kQ5_0, WeightFormat::kQ5_1,
    WeightFormat::kQ4_K,   WeightFormat::kQ5_K, WeightFormat::kQ6_K,
};

void ForEachWhole(const std::function<void(const Kept&)>& check) {
  for (const WeightFormat format : kWhole) {
    for (const DType activations : {DType::kF32, DType::kBF16}) {
      CAPTURE(NameOf(format));
      CAPTURE(NameOf(activations));
      check({format, activations});
    }
  }
}

// Returns about `k` columns, as the format takes them: of int8 rows neither whole groups nor quads.
int64_t ColumnsOf(const Kept& kept, int64_t k) {
  return RoundUp(k, TraitsOf(kept.format).block.values);
}

struct Call {
  LinearPhase phase = LinearPhase::kDecode;
  Activations activations = Activations::kInt8;
};

std::vector<Tensor> Products(const Backend& backend, const Tensor& x,
                             const std::vector<const FrozenWeight*>& weights, const Call& call,
                             Context& context) {
  LoraLinearForwardArgs args;
  std::vector<Tensor> results;
  args.x = x;
  args.phase = call.phase;
  for (const FrozenWeight* weight : weights) {
    LoraBranch branch;
    branch.weight = weight->view();
    branch.activations = call.activations;
    args.branches.push_back(branch);
    results.emplace_back(x.dtype(), Shape{x.shape()[0], weight->view().rows});
    args.y.push_back(results.back());
    args.h.emplace_back();
  }
  Run(backend, args, context);
  return results;
}

Tensor Product(const Tensor& x, const FrozenWeight& weight, const Call& call, Context& context) {
  return Products(CpuBackend(), x, {&weight}, call, context)[0];
}

Tensor RowsOf(const Tensor& x, int64_t first, int64_t count) {
  Tensor rows(x.dtype(), {count, x.shape()[1]});
  for (int64_t i = 0; i < rows.numel(); ++i) rows.Set(i, x.at(first * x.shape()[1] + i));
  return rows;
}

Tensor ExpectedOf(const Tensor& x, const KeptMatrix& m, const Kept& kept) {
  const auto context = ReferenceBackend().create_context(1);
  const FrozenWeight weight(ReferenceBackend(), m.args, kept.activations, *context);
  return Products(ReferenceBackend(), x, {&weight}, {}, *context)[0];
}

double NormOf(const Tensor& values, int64_t row) {
  const int64_t k = values.shape()[1];
  double sum = 0;
  for (int64_t l = 0; l < k; ++l) sum += values.at(row * k + l) * values.at(row * k + l);
  return std::sqrt(sum);
}

TEST_CASE("int8 activations: a product is that of the reference within 1e-6 of the norms") {
  cpu::CpuContext context(2);
  ForEachWhole([&](const Kept& kept) {
    const int64_t k = ColumnsOf(kept, 1501), n = 71, rows = 53;
    const KeptMatrix m(kept, n, k, 11);
    const Tensor x = Normal(kept.activations, {rows, k}, 5);
    const Tensor expected = ExpectedOf(x, m, kept);
    const double rounding = kept.activations == DType::kBF16 ? 0x1p-8 : 0x1p-24;
    ForEachSimdTarget([&] {
      const FrozenWeight weight(CpuBackend(), m.args, kept.activations, context);
      for (const int64_t count : {int64_t{1}, int64_t{7}, rows}) {
        const Tensor y = Product(RowsOf(x, 0, count), weight, {}, context);
        int64_t wrong = 0;
        for (int64_t i = 0; i < count * n; ++i) {
          const double bound = 1e-6 * NormOf(x, i / n) * NormOf(m.values, i % n) +
                               rounding * std::abs(expected.at(i));
          wrong += !(std::abs(y.at(i) - expected.at(i)) <= bound);
        }
        CAPTURE(count);
        CHECK(wrong == 0);
      }
    });
  });
}

TEST_CASE("int8 activations: every instruction set gives the same bits") {
  cpu::CpuContext context(2);
  ForEachWhole([&](const Kept& kept) {
    const KeptMatrix m(kept, 131, ColumnsOf(kept, 770), 3);
    const Tensor x = Normal(kept.activations, {9, m.values.shape()[1]}, 5);
    Tensor first;
    ForEachSimdTarget([&] {
      const FrozenWeight weight(CpuBackend(), m.args, kept.activations, context);
      const Tensor y = Product(x, weight, {}, context);
      if (!first) first = y;
      CHECK_IDENTICAL(y, first);
    });
  });
}

TEST_CASE("int8 activations: the bits of a row depend on no other row, and on no phase") {
  constexpr int64_t kRows = 101;
  cpu::CpuContext one(1), two(2);
  ForEachWhole([&](const Kept& kept) {
    const KeptMatrix m(kept, 130, ColumnsOf(kept, 300), 13);
    const Tensor x = Normal(kept.activations, {kRows, m.values.shape()[1]}, 5);
    ForEachSimdTarget([&] {
      const FrozenWeight weight(CpuBackend(), m.args, kept.activations, one);
      const Tensor all = Product(x, weight, {}, two);
      for (const auto& [at, count] :
           {std::pair<int64_t, int64_t>{0, 1}, {kRows - 1, 1}, {3, 2}, {45, 9}}) {
        CAPTURE(at);
        const Tensor some = Product(RowsOf(x, at, count), weight, {}, count == 2 ? two : one);
        CHECK_IDENTICAL(some, RowsOf(all, at, count));
      }
      // Tile registers multiply the values of a prefill.
      const Tensor prefill = Product(x, weight, {LinearPhase::kPrefill}, two);
      const Call exact{LinearPhase::kPrefill, Activations::kExact};
      CHECK_IDENTICAL(prefill, cpu::MultipliesTiles() ? Product(x, weight, exact, two) : all);
    });
  });
}

// The sums begin with what the adapter adds, in the order of the outputs that they leave in.
TEST_CASE("int8 activations: a row has the bits beside others that it has alone with its adapter") {
  cpu::CpuContext context(2);
  ForEachWhole([&](const Kept& kept) {
    const int64_t k = ColumnsOf(kept, 300), n = 130, rows = 7;
    const KeptMatrix m(kept, n, k, 13);
    const Tensor x = Normal(kept.activations, {rows, k}, 5);
    const Tensor up = Normal(DType::kF32, {n, 4}, 6), down = Normal(DType::kF32, {4, k}, 7);
    ForEachSimdTarget([&] {
      const FrozenWeight weight(CpuBackend(), m.args, kept.activations, context);
      const auto product = [&](const Tensor& some) {
        LoraLinearForwardArgs args;
        const Tensor y(some.dtype(), {some.shape()[0], n});
        LoraBranch branch;
        branch.weight = weight.view();
        branch.up = up;
        branch.down = down;
        branch.scale = 2;
        branch.activations = Activations::kInt8;
        args.x = some;
        args.phase = LinearPhase::kDecode;
        args.branches.push_back(branch);
        args.y.push_back(y);
        args.h.emplace_back();
        Run(CpuBackend(), args, context);
        return y;
      };
      const Tensor all = product(x);
      for (int64_t row = 0; row < rows; ++row)
        CHECK_IDENTICAL(product(RowsOf(x, row, 1)), RowsOf(all, row, 1));
    });
  });
}

// Codes at the ends of their range, where pairs of products come nearest to 16 bits.
TEST_CASE("int8 activations: the largest codes are summed exactly") {
  cpu::CpuContext context(1);
  for (const WeightFormat format : kWhole) {
    CAPTURE(NameOf(format));
    const Kept kept{format, DType::kF32};
    const int64_t k = 256, n = 3;
    for (const int byte : {0x80, 0xff, 0x7f}) {
      CAPTURE(byte);
      KeptMatrix m(kept, n, k, 7);
      for (int64_t i = 0; i < m.stored.numel(); ++i)
        m.stored.view().as<uint8_t>()[i] = static_cast<uint8_t>(byte);
      if (format != WeightFormat::kI8Rows) ScaleBlocks(format, m.stored);
      for (const float sign : {1.0f, -1.0f}) {
        Tensor x(DType::kF32, {2, k});
        for (int64_t i = 0; i < k; ++i) {
          x.Set(i, 127 * sign);
          x.Set(k + i, i % 2 == 0 ? 127 : -127);
        }
        const Tensor expected = ExpectedOf(x, m, kept);
        ForEachSimdTarget([&] {
          const FrozenWeight weight(CpuBackend(), m.args, kept.activations, context);
          const Tensor y = Product(x, weight, {}, context);
          for (int64_t i = 0; i < y.numel(); ++i)
            CHECK(y.at(i) == doctest::Approx(expected.at(i)).epsilon(1e-5).scale(1));
        });
      }
    }
  }
}

TEST_CASE("int8 activations: values that are not finite make their row NaN, tiny ones are zeros") {
  cpu::CpuContext context(1);
  const Kept kept{WeightFormat::kQ4_K, DType::kF32};
  const KeptMatrix m(kept, 5, 256, 7);
  Tensor x = Normal(DType::kF32, {4, 256}, 5);
  x.Set(3, std::numeric_limits<double>::quiet_NaN());
  x.Set(256 + 200, std::numeric_limits<double>::infinity());
  for (int64_t i = 0; i < 256; ++i) x.Set(512 + i, 1e-40);
  const Tensor expected = ExpectedOf(x, m, kept);
  ForEachSimdTarget([&] {
    const FrozenWeight weight(CpuBackend(), m.args, kept.activations, context);
    const Tensor y = Product(x, weight, {}, context);
    for (const Tensor& result : {y, expected}) {
      for (int64_t j = 0; j < 5; ++j) {
        CHECK(std::isnan(result.at(j)));
        CHECK(std::isnan(result.at(5 + j)));
        CHECK(result.at(10 + j) == 0);
        CHECK(std::isfinite(result.at(15 + j)));
      }
    }
  });
}

TEST_CASE("int8 activations: branches without whole codes stay exact beside others") {
  cpu::CpuContext context(2);
  const int64_t k = 256;
  const Kept q4{WeightFormat::kQ4_0, DType::kBF16}, nf4{WeightFormat::kNF4, DType::kBF16};
  const KeptMatrix blocks(q4, 40, k, 3), codes(nf4, 33, k, 4);
  const Tensor x = Normal(DType::kBF16, {6, k}, 5), floats = Normal(DType::kBF16, {20, k}, 6);
  ForEachSimdTarget([&] {
    const FrozenWeight a(CpuBackend(), codes.args, DType::kBF16, context);
    const FrozenWeight b(CpuBackend(), blocks.args, DType::kBF16, context);
    const FrozenWeight c(CpuBackend(), floats, context);
    for (const LinearPhase phase : {LinearPhase::kPrefill, LinearPhase::kDecode}) {
      const Call exact{phase, Activations::kExact};
      const std::vector<Tensor> y = Products(CpuBackend(), x, {&a, &b, &c}, {phase}, context);
      CHECK_IDENTICAL(y[0], Product(x, a, exact, context));
      CHECK_IDENTICAL(y[1], Product(x, b, {phase}, context));
      CHECK_IDENTICAL(y[2], Product(x, c, exact, context));
    }
  });
}

// 1 rounds to 127/2, ties go to even; the other half of the group has the same scale.
TEST_CASE("int8 activations: a group is rounded to 127 steps of its largest value, ties to even") {
  float x[] = {-2, 1, 0.5f / 63.5f, 1.5f / 63.5f, -2.5f / 63.5f, 0};
  int8_t codes[6];
  CHECK(RoundActivations(x, 6, codes) == 2.0f / 127);
  CHECK(codes[0] == -127);
  CHECK(codes[1] == 64);
  CHECK(codes[2] == 0);
  CHECK(codes[3] == 2);
  CHECK(codes[4] == -2);
  CHECK(codes[5] == 0);
}

}  // namespace
}  // namespace lora::test
