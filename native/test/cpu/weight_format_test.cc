// Weights that are kept in another format than the activations: each op that reads one gives what
// it gives for the same values in the dtype of the activations.
#include <doctest/doctest.h>

#include <functional>
#include <string>

#include "core/ops/backend.h"
#include "test/support/close.h"
#include "test/support/lora_problem.h"
#include "test/support/run.h"
#include "test/support/simd_targets.h"

namespace lora::test {
namespace {

struct Kept {
  DType stored, activations;
};
constexpr Kept kKept[] = {
    {DType::kBF16, DType::kF32}, {DType::kI8, DType::kF32}, {DType::kI8, DType::kBF16}};

// W as it is stored, and its values in the dtype of the activations: q·s in f32, rounded once more.
struct Matrix {
  Tensor stored, scales, values;
  Matrix(const Kept& kept, int64_t rows, int64_t cols, uint64_t seed)
      : values(kept.activations, {rows, cols}) {
    if (kept.stored == DType::kI8) {
      stored = Integers(DType::kI8, {rows, cols}, seed, -128, 127);
      scales = Uniform(DType::kF32, {rows}, seed + 1, 0.001, 0.02);
    } else {
      stored = Normal(kept.stored, {rows, cols}, seed);
    }
    for (int64_t i = 0; i < values.numel(); ++i) {
      const float scale = scales ? static_cast<float>(scales.at(i / cols)) : 1;
      values.Set(i, static_cast<float>(stored.at(i)) * scale);
    }
  }
};

// Runs `check` with a backend and a context: the reference, then the CPU on every instruction set.
void OnReferenceAndCpu(const std::function<void(const Backend&, Context&)>& check) {
  const auto reference = ReferenceBackend().create_context(1);
  check(ReferenceBackend(), *reference);
  const auto cpu = CpuBackend().create_context(2);
  ForEachSimdTarget([&] { check(CpuBackend(), *cpu); });
}

TEST_CASE("weight formats: what a backend reads") {
  for (const Backend* backend : {&ReferenceBackend(), &CpuBackend()}) {
    for (const Kept& kept : kKept) CHECK(backend->reads(FormatOf(kept.stored), kept.activations));
    CHECK(backend->reads(WeightFormat::kF32, DType::kF32));
    CHECK(backend->reads(WeightFormat::kBF16, DType::kBF16));
    // A weight is never wider than the activations.
    CHECK(!backend->reads(WeightFormat::kF32, DType::kBF16));
  }
}

TEST_CASE("weight formats: int8 rows take a quarter of f32, and bf16 half") {
  OnReferenceAndCpu([](const Backend& backend, Context&) {
    const size_t f32 = backend.packed_bytes(512, 1024, WeightFormat::kF32);
    CHECK(backend.packed_bytes(512, 1024, WeightFormat::kBF16) == f32 / 2);
    CHECK(backend.packed_bytes(512, 1024, WeightFormat::kI8Rows) == f32 / 4 + 512 * sizeof(float));
  });
}

TEST_CASE("weight formats: unpack and embedding give the values") {
  for (const Kept& kept : kKept) {
    CAPTURE(NameOf(kept.stored));
    CAPTURE(NameOf(kept.activations));
    for (const Shape& shape : {Shape{1, 1}, Shape{3, 7}, Shape{70, 33}, Shape{131, 130}}) {
      const Matrix m(kept, shape[0], shape[1], 5);
      OnReferenceAndCpu([&](const Backend& backend, Context& context) {
        const FrozenWeight weight(backend, m.stored, m.scales, kept.activations, context);
        const Tensor back(kept.activations, shape);
        Run(backend, UnpackArgs{weight.view(), back}, context);
        CHECK_IDENTICAL(back, m.values);
        const Tensor ids = Of(DType::kI32, {1}, {static_cast<double>(shape[0] - 1)});
        const Tensor row(kept.activations, {1, shape[1]});
        Run(backend, EmbeddingArgs{weight.view(), ids, row}, context);
        for (int64_t j = 0; j < shape[1]; ++j)
          CHECK(row.at(j) == m.values.at((shape[0] - 1) * shape[1] + j));
      });
    }
  }
}

LoraLinearForwardArgs ForwardOf(const LoraLinearProblem& p, const PackedView& w,
                                const LoraLinearOutputs& out) {
  const BranchOperands& b = p.branches[0];
  return {p.x, {{w, b.bias, b.up, b.down, b.scale, b.dropout}}, {out.y[0]}, {out.h[0]}};
}
LoraLinearBackwardArgs BackwardOf(const LoraLinearProblem& p, const PackedView& w, const Tensor& h,
                                  const LoraLinearOutputs& out) {
  const BranchOperands& b = p.branches[0];
  return {p.x,
          {{w, {}, b.up, b.down, b.scale, b.dropout}},
          {p.g[0]},
          {h},
          out.dx,
          {out.d_up[0]},
          {out.d_down[0]}};
}

TEST_CASE("weight formats: lora_linear gives the bits of the values, forward and backward") {
  for (const Kept& kept : kKept) {
    CAPTURE(NameOf(kept.stored));
    CAPTURE(NameOf(kept.activations));
    for (const int64_t m : {1, 2, 4, 7, 70}) {
      for (const auto& [in, out] : {std::pair<int64_t, int64_t>{5, 3}, {65, 131}, {130, 1030}}) {
        CAPTURE(m);
        CAPTURE(in);
        CAPTURE(out);
        const LoraLinearProblem p(CaseOf(kept.activations, m, in, {{out, 5, true, 0}}));
        const Matrix matrix(kept, out, in, 9);
        OnReferenceAndCpu([&](const Backend& backend, Context& context) {
          const auto run = [&](const FrozenWeight& weight) {
            LoraLinearOutputs o;
            o.y = {Tensor(kept.activations, {m, out})};
            o.h = {Tensor(DType::kF32, {m, 5})};
            o.dx = Tensor(kept.activations, {m, in});
            o.d_up = {Tensor(DType::kF32, {out, 5})};
            o.d_down = {Tensor(DType::kF32, {5, in})};
            Run(backend, ForwardOf(p, weight.view(), o), context);
            Run(backend, BackwardOf(p, weight.view(), o.h[0], o), context);
            return o;
          };
          const LoraLinearOutputs kept_so =
              run(FrozenWeight(backend, matrix.stored, matrix.scales, kept.activations, context));
          const LoraLinearOutputs plain = run(FrozenWeight(backend, matrix.values, context));
          CHECK_IDENTICAL(kept_so.dx, plain.dx);
          CHECK_IDENTICAL(kept_so.d_up[0], plain.d_up[0]);
          CHECK_IDENTICAL(kept_so.d_down[0], plain.d_down[0]);
          CHECK_IDENTICAL(kept_so.y[0], plain.y[0]);
        });
      }
    }
  }
}

TEST_CASE("weight formats: linear_cross_entropy gives the bits of the values") {
  for (const Kept& kept : kKept) {
    const int64_t rows = 9, dim = 66, vocab = 5000;
    const Matrix matrix(kept, vocab, dim, 3);
    const Tensor hidden = Normal(kept.activations, {rows, dim}, 1);
    const Tensor labels = Integers(DType::kI32, {rows}, 2, 0, vocab - 1);
    const auto cpu = CpuBackend().create_context(2);
    ForEachSimdTarget([&] {
      const auto run = [&](const FrozenWeight& weight, const Tensor& loss, const Tensor& d_hidden) {
        const Tensor count(DType::kF32, {1});
        Run(CpuBackend(),
            LinearCrossEntropyArgs{hidden, weight.view(), labels, loss, count, d_hidden}, *cpu);
      };
      const Tensor loss(DType::kF32, {1}), d_hidden(DType::kF32, {rows, dim});
      const Tensor plain_loss(DType::kF32, {1}), plain_d(DType::kF32, {rows, dim});
      run(FrozenWeight(CpuBackend(), matrix.stored, matrix.scales, kept.activations, *cpu), loss,
          d_hidden);
      run(FrozenWeight(CpuBackend(), matrix.values, *cpu), plain_loss, plain_d);
      CHECK_IDENTICAL(loss, plain_loss);
      CHECK_IDENTICAL(d_hidden, plain_d);
    });
  }
}

}  // namespace
}  // namespace lora::test
