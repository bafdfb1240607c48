// Weights that are kept in another format than the activations: each op that reads one gives what
// it gives for the same values in the dtype of the activations.
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "test/support/delta_table.h"
#include "test/support/kept_matrix.h"
#include "test/support/lora_problem.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

constexpr Kept kKept[] = {
    {WeightFormat::kBF16, DType::kF32},   {WeightFormat::kF16, DType::kF32},
    {WeightFormat::kI8Rows, DType::kF32}, {WeightFormat::kI8Rows, DType::kBF16},
    {WeightFormat::kNF4, DType::kF32},    {WeightFormat::kNF4, DType::kBF16},
    {WeightFormat::kFP4, DType::kF32},    {WeightFormat::kFP4, DType::kBF16},
    {WeightFormat::kQ8_0, DType::kF32},   {WeightFormat::kQ8_0, DType::kBF16},
    {WeightFormat::kQ4_K, DType::kF32},   {WeightFormat::kQ4_K, DType::kBF16}};

// The first number of columns that a format has from `cols` on: rows are whole blocks.
int64_t Columns(const Kept& kept, int64_t cols) {
  return HasBlocks(kept.format) ? RoundUp(cols, TraitsOf(kept.format).block.values) : cols;
}

// Calls check(kept) for what the backend reads.
void ForEachKept(const Backend& backend, const std::function<void(const Kept&)>& check) {
  for (const Kept& kept : kKept) {
    if (!backend.reads(kept.format, kept.activations)) continue;
    // One kernel expands blocks of any format for all products.
    if (Tested().emulated && kept.format == WeightFormat::kQ8_0) continue;
    CAPTURE(NameOf(kept.format));
    CAPTURE(NameOf(kept.activations));
    check(kept);
  }
}

// Requires the same bits of run(backend, context, w) for both forms of W: the reference's, and the
// tested backend's on every path.
using RunWith =
    std::function<std::vector<Tensor>(const Backend&, Context&, const FrozenWeight& weight)>;
void CheckSameBits(const Kept& kept, const KeptMatrix& w, const RunWith& run) {
  const auto run_both = [&](const Backend& backend, Context& context, bool stored) {
    return run(backend, context,
               stored ? FrozenWeight(backend, w.args, kept.activations, context)
                      : FrozenWeight(backend, w.values, context));
  };
  const auto same = [](const std::vector<Tensor>& one, const std::vector<Tensor>& other) {
    for (size_t i = 0; i < one.size(); ++i) {
      CAPTURE(i);
      CHECK_IDENTICAL(one[i], other[i]);
    }
  };
  const auto reference = ReferenceBackend().create_context(1);
  same(run_both(ReferenceBackend(), *reference, true),
       run_both(ReferenceBackend(), *reference, false));
  OnPathsInTurn(
      [&](Context& context) {
        std::vector<Tensor> out = run_both(Tested().backend, context, true);
        same(out, run_both(Tested().backend, context, false));
        return out;
      },
      [](const std::vector<Tensor>&) {}, true);
}

TEST_CASE("weight formats: what a backend reads") {
  for (const Backend* backend : {&ReferenceBackend(), &Tested().backend}) {
    for (const Kept& kept : kKept) {
      CHECK(backend->reads(kept.format, kept.activations));
    }
    CHECK(backend->reads(WeightFormat::kF32, DType::kF32));
    CHECK(backend->reads(WeightFormat::kBF16, DType::kBF16));
    // A weight is never wider than the activations, and 16 bits are not those of another format.
    CHECK(!backend->reads(WeightFormat::kF32, DType::kBF16));
    CHECK(!backend->reads(WeightFormat::kF16, DType::kBF16));
    CHECK(!backend->reads(WeightFormat::kBF16, DType::kF16));
  }
}

TEST_CASE("weight formats: int8 rows take a quarter of f32, 16 bits half, and codes 9 of 64") {
  for (const Backend* backend : {&ReferenceBackend(), &Tested().backend}) {
    const size_t f32 = backend->packed_bytes(512, 1024, WeightFormat::kF32);
    CHECK(backend->packed_bytes(512, 1024, WeightFormat::kBF16) == f32 / 2);
    CHECK(backend->packed_bytes(512, 1024, WeightFormat::kF16) == f32 / 2);
    CHECK(backend->packed_bytes(512, 1024, WeightFormat::kI8Rows) == f32 / 4 + 512 * sizeof(float));
    CHECK(backend->packed_bytes(512, 1024, WeightFormat::kNF4) == f32 / 8 + f32 / 64);
    CHECK(backend->packed_bytes(512, 1024, WeightFormat::kFP4) == f32 / 8 + f32 / 64);
    // Blocks take the bytes that they have in a file.
    CHECK(backend->packed_bytes(512, 1024, WeightFormat::kQ8_0) == f32 / 128 * 34);
    CHECK(backend->packed_bytes(512, 1024, WeightFormat::kQ4_K) == f32 / 1024 * 144);
  }
}

// Requires the values of unpack and embedding.
void CheckValues(const Kept& kept, const std::vector<Shape>& shapes) {
  for (const Shape& of : shapes) {
    const Shape shape{of[0], Columns(kept, of[1])};
    const KeptMatrix m(kept, shape[0], shape[1], 5);
    const Tensor ids = Ints({2}, {static_cast<int32_t>(shape[0] - 1), 0});
    Tensor rows(kept.activations, {2, shape[1]});
    for (int64_t i = 0; i < 2; ++i) {
      for (int64_t j = 0; j < shape[1]; ++j)
        rows.Set(i * shape[1] + j, m.values.at((i == 0 ? shape[0] - 1 : 0) * shape[1] + j));
    }
    OnEveryPath(
        [&](Context& context) {
          const Backend& backend = Tested().backend;
          const FrozenWeight weight(backend, m.args, kept.activations, context);
          std::vector<Tensor> out = {Tensor(kept.activations, shape),
                                     Tensor(kept.activations, {2, shape[1]})};
          RunTested(UnpackArgs{weight.view(), out[0]}, context);
          RunTested(EmbeddingArgs{weight.view(), ids, out[1]}, context);
          return out;
        },
        [&](const std::vector<Tensor>& out) {
          CHECK_IDENTICAL(out[0], m.values);
          CHECK_IDENTICAL(out[1], rows);
        });
  }
}

TEST_CASE("weight formats: unpack and embedding give the values") {
  ForEachKept(Tested().backend, [](const Kept& kept) {
    CheckValues(kept,
                {{1, 1}, {3, 7}, {5, 16}, {70, 33}, {31, 1030}, {9, 172}, {17, 352}, {3, 128}});
  });
}

TEST_CASE("weight formats: unpack and embedding give the values of every format of blocks") {
  for (int format = static_cast<int>(kFirstBlocks); format <= static_cast<int>(kLastBlocks);
       ++format) {
    for (const DType activations : {DType::kF32, DType::kBF16}) {
      const Kept kept{static_cast<WeightFormat>(format), activations};
      CAPTURE(NameOf(kept.format));
      CHECK(Tested().backend.reads(kept.format, activations));
      CheckValues(kept, {{5, 512}});
    }
  }
}

// Every f16: zeros, subnormals, infinities. One NaN stands for all, some of which have the bits of
// an unset register of the emulator; a conversion may make another NaN of it.
TEST_CASE("weight formats: f16 means the same to every backend") {
  Tensor all(DType::kF16, {64, 1024});
  for (int i = 0; i < 1 << 16; ++i) {
    const bool nan = (i & 0x7fff) > 0x7c00;
    all.view().as<uint16_t>()[i] = static_cast<uint16_t>(nan ? 0x7e00 : i);
  }
  Tensor ids(DType::kI32, {64});
  for (int i = 0; i < 64; ++i) ids.Set(i, i);
  const auto run = [&](const Backend& backend, Context& context) {
    const FrozenWeight weight(backend, all, Tensor(), DType::kF32, context);
    std::vector<Tensor> y = {Tensor(DType::kF32, {64, 1024})};
    Run(backend, EmbeddingArgs{weight.view(), ids, y[0]}, context);
    return y;
  };
  const auto reference = ReferenceBackend().create_context(1);
  const Tensor expected = run(ReferenceBackend(), *reference)[0];
  OnEveryPath([&](Context& context) { return run(Tested().backend, context); },
              [&](const std::vector<Tensor>& y) {
                int64_t off = 0;
                for (int64_t i = 0; i < expected.numel(); ++i) {
                  const double value = expected.at(i);
                  off += std::isnan(value) ? !std::isnan(y[0].at(i)) : y[0].at(i) != value;
                }
                CHECK(off == 0);
              });
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
  std::vector<std::pair<int64_t, int64_t>> sizes = {{5, 3}, {65, 131}, {192, 70}};
  sizes.emplace_back(260, Tested().emulated ? 260 : 1030);
  // Rows that end within blocks of 64; on the emulator decode_test.cc has them.
  if (!Tested().emulated) sizes.insert(sizes.end(), {{172, 70}, {352, 70}, {384, 70}});
  // Two passes over the reduction, of which the second begins within a block.
  if (!Tested().emulated) sizes.emplace_back(1600, 70);
  ForEachKept(Tested().backend, [&](const Kept& kept) {
    for (const int64_t m : {1, 2, 4, 7, 9, 70}) {
      for (const auto& [columns, out] : sizes) {
        const int64_t in = Columns(kept, columns);
        CAPTURE(m);
        CAPTURE(in);
        CAPTURE(out);
        const LoraLinearProblem p(CaseOf(kept.activations, m, in, {{out, 5, true, 0.25f}}));
        const KeptMatrix matrix(kept, out, in, 9);
        CheckSameBits(kept, matrix,
                      [&](const Backend& backend, Context& context, const FrozenWeight& weight) {
                        LoraLinearOutputs o;
                        o.y = {Tensor(kept.activations, {m, out})};
                        o.h = {Tensor(DType::kF32, {m, 5})};
                        o.dx = Tensor(kept.activations, {m, in});
                        o.d_up = {Tensor(DType::kF32, {out, 5})};
                        o.d_down = {Tensor(DType::kF32, {5, in})};
                        Run(backend, ForwardOf(p, weight.view(), o), context);
                        Run(backend, BackwardOf(p, weight.view(), o.h[0], o), context);
                        return std::vector<Tensor>{o.y[0], o.h[0], o.dx, o.d_up[0], o.d_down[0]};
                      });
      }
    }
  });
}

// Shapes so small that a machine in software takes seconds (CONTRIBUTING): one stream and several,
// panels that are not whole, two passes over the reduction.
TEST_CASE("weight formats: a decode step gives the bits of the values") {
  std::vector<std::pair<int64_t, int64_t>> sizes = {{72, 19}};
  if (!Tested().emulated) sizes.insert(sizes.end(), {{320, 131}, {1600, 9}});
  ForEachKept(Tested().backend, [&](const Kept& kept) {
    for (const int64_t m : {1, 3}) {
      for (const auto& [columns, out] : sizes) {
        const int64_t in = Columns(kept, columns);
        // Codes give other bits than values: code_products_test.cc says how near they are.
        if (MultipliesCodes(kept, in)) continue;
        CAPTURE(m);
        CAPTURE(in);
        CAPTURE(out);
        const LoraLinearProblem p(CaseOf(kept.activations, m, in, {{out, 5, true}}));
        const KeptMatrix matrix(kept, out, in, 9);
        CheckSameBits(kept, matrix,
                      [&](const Backend& backend, Context& context, const FrozenWeight& weight) {
                        LoraLinearOutputs o;
                        o.y = {Tensor(kept.activations, {m, out})};
                        o.h = {Tensor(DType::kF32, {m, 5})};
                        LoraLinearForwardArgs args = ForwardOf(p, weight.view(), o);
                        args.phase = LinearPhase::kDecode;
                        Run(backend, args, context);
                        return std::vector<Tensor>{o.y[0], o.h[0]};
                      });
      }
    }
  });
}

TEST_CASE("weight formats: rows with adapters of their own have the bits of the values") {
  ForEachKept(Tested().backend, [](const Kept& format) {
    const int64_t in = Columns(format, 260);
    const LinearPhase phase =
        MultipliesCodes(format, in) ? LinearPhase::kPrefill : LinearPhase::kDecode;
    const LoraLinearCase c = CaseOf(format.activations, 5, in, {{33, 0, true}, {20, 0}});
    const std::vector<int32_t> slots = {0, 2, -1, 1, 0};
    TableProblem kept(c, phase), plain(c, phase);
    std::vector<KeptMatrix> matrices;
    for (size_t i = 0; i < 2; ++i) {
      matrices.emplace_back(format, c.branches[i].n, c.k, 20 + i);
      kept.SetWeight(i, matrices[i].values, matrices[i].args);
      plain.SetWeight(i, matrices[i].values, PackOf(matrices[i].values, nullptr));
    }
    OnPathsInTurn(
        [&](Context& context) {
          std::vector<Tensor> y = kept.Forward(Tested().backend, context, slots);
          const std::vector<Tensor> expected = plain.Forward(Tested().backend, context, slots);
          for (size_t i = 0; i < y.size(); ++i) CHECK_IDENTICAL(y[i], expected[i]);
          return y;
        },
        [](const std::vector<Tensor>&) {});
  });
}

TEST_CASE("weight formats: linear_cross_entropy gives the bits of the values") {
  const int64_t rows = 9, vocab = Tested().emulated ? 500 : 5000;
  ForEachKept(Tested().backend, [&](const Kept& kept) {
    const int64_t dim = Columns(kept, 66);
    const KeptMatrix matrix(kept, vocab, dim, 3);
    const Tensor hidden = Normal(kept.activations, {rows, dim}, 1);
    const Tensor labels = Integers(DType::kI32, {rows}, 2, 0, static_cast<int>(vocab) - 1);
    CheckSameBits(
        kept, matrix, [&](const Backend& backend, Context& context, const FrozenWeight& weight) {
          const Tensor count(DType::kF32, {1});
          std::vector<Tensor> out = {Tensor(DType::kF32, {1}), Tensor(DType::kF32, {rows, dim})};
          Run(backend,
              LinearCrossEntropyArgs{hidden, weight.view(), labels, out[0], count, out[1], {}, {}},
              context);
          return out;
        });
  });
}

}  // namespace
}  // namespace lora::test
