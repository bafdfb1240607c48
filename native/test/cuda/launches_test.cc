// Tests what calls of the CUDA backend launch, in which order and shape, and where they wait: the
// lists that LaunchesOf makes without a device. Every other test of an op holds what a device was
// given against the list (test/support/mirror.cc).
#include "backend/cuda/launches.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/ops/backend.h"

namespace lora::test {
namespace {

using cuda::DeviceProperties;
using cuda::LaunchesOf;
using cuda::PlannedStep;

// An A100, and an RTX 5090.
constexpr DeviceProperties kA100{108, 80, 163 << 10}, k5090{170, 120, 99 << 10};

// Tensors at made-up addresses, each behind the one before it, as the allocator aligns them.
class Memory {
 public:
  TensorView operator()(DType dtype, Shape shape) {
    TensorView view(reinterpret_cast<void*>(next_), dtype, shape);
    next_ += (view.bytes() + 255) / 256 * 256;
    return view;
  }

 private:
  uintptr_t next_ = uintptr_t{1} << 40;
};

// Returns the list of a call, a step per line.
template <class Args>
std::string ListOf(const Args& args, const DeviceProperties& device = kA100) {
  Check(args);
  const PlannedCall call = CudaBackend()->op<Args>().plan(args, device.multiprocessors);
  const std::vector<PlannedStep> steps = LaunchesOf(call, device);
  CHECK(cuda::BrokenRule(steps) == "");
  std::string list;
  for (const PlannedStep& step : steps) list += Text(step) + "\n";
  return list;
}

struct LinearCase {
  int64_t m, in;
  std::vector<int64_t> outs;
  int64_t rank;
  WeightFormat format = WeightFormat::kBF16;
  DType dtype = DType::kBF16;
};

LoraLinearForwardArgs Forward(const LinearCase& c) {
  Memory memory;
  LoraLinearForwardArgs args;
  args.x = memory(c.dtype, {c.m, c.in});
  for (const int64_t out : c.outs) {
    LoraBranch branch;
    branch.weight = {memory(c.dtype, {out, c.in}).data, c.dtype, out, c.in, c.format};
    if (c.rank > 0) {
      branch.up = memory(DType::kF32, {out, c.rank});
      branch.down = memory(DType::kF32, {c.rank, c.in});
    }
    args.branches.push_back(branch);
    args.y.push_back(memory(c.dtype, {c.m, out}));
    args.h.push_back(c.rank > 0 ? memory(DType::kF32, {c.m, c.rank}) : TensorView());
  }
  return args;
}

LoraLinearBackwardArgs Backward(const LinearCase& c) {
  const LoraLinearForwardArgs forward = Forward(c);
  Memory memory;
  LoraLinearBackwardArgs args;
  args.x = forward.x;
  args.branches = forward.branches;
  args.h = forward.h;
  args.dx = memory(c.dtype, {c.m, c.in});
  for (const int64_t out : c.outs) {
    args.g.push_back(memory(c.dtype, {c.m, out}));
    args.d_up.push_back(memory(DType::kF32, {out, c.rank}));
    args.d_down.push_back(memory(DType::kF32, {c.rank, c.in}));
  }
  return args;
}

// The two calls that do the same together: dx, which keeps u, and the others.
LoraLinearBackwardArgs FirstPart(const LinearCase& c) {
  LoraLinearBackwardArgs args = Backward(c);
  Memory memory;
  args.x = {};
  args.h.assign(args.h.size(), {});
  args.d_up = args.d_down = args.h;
  for (size_t i = 0; i < c.outs.size(); ++i)
    args.kept_u.push_back(memory(DType::kF32, {c.m, c.rank}));
  return args;
}
LoraLinearBackwardArgs Rest(const LinearCase& c) {
  LoraLinearBackwardArgs args = Backward(c);
  args.dx = {};
  args.u = FirstPart(c).kept_u;
  return args;
}

// A decode step whose rows name their changes in a table of 4 slots.
LoraLinearForwardArgs WithTable(const LinearCase& c) {
  LoraLinearForwardArgs args = Forward(c);
  Memory memory;
  auto sites = std::make_shared<std::vector<DeltaSite>>();
  for (size_t i = 0; i < args.branches.size(); ++i) {
    LoraBranch& branch = args.branches[i];
    branch.site = static_cast<int64_t>(i);
    branch.up = branch.down = args.h[i] = {};
    sites->push_back({branch.weight.rows, branch.weight.cols});
  }
  args.slots = memory(DType::kI32, {c.m});
  args.table.entries = memory(DType::kI32, {1024}).as<const DeltaEntry>();
  args.table.slots = 4;
  args.table.max_rank = c.rank;
  args.table.sites = sites;
  return args;
}

AttentionForwardArgs Attention(int64_t batch, int64_t queries, DType dtype = DType::kBF16) {
  Memory memory;
  AttentionForwardArgs args;
  args.q = args.y = memory(dtype, {batch, queries, 32, 128});
  args.y = memory(dtype, args.q.shape);
  args.k = memory(dtype, {batch, queries, 8, 128});
  args.v = memory(dtype, args.k.shape);
  args.lse = memory(DType::kF32, {batch, 32, queries});
  return args;
}
AttentionBackwardArgs AttentionBackward(int64_t batch, int64_t queries) {
  const AttentionForwardArgs forward = Attention(batch, queries);
  Memory memory;
  AttentionBackwardArgs args;
  args.q = forward.q;
  args.k = forward.k;
  args.v = forward.v;
  args.y = forward.y;
  args.lse = forward.lse;
  args.g = memory(DType::kBF16, args.q.shape);
  args.dq = memory(DType::kBF16, args.q.shape);
  args.dk = memory(DType::kBF16, args.k.shape);
  args.dv = memory(DType::kBF16, args.k.shape);
  return args;
}
AttentionPagedArgs AttentionPaged(int64_t batch, int64_t queries, int64_t max_pages) {
  Memory memory;
  AttentionPagedArgs args;
  args.q = memory(DType::kBF16, {batch, queries, 32, 128});
  args.y = memory(DType::kBF16, args.q.shape);
  args.k_pool = memory(DType::kBF16, {512, 8, kPageSize, 128});
  args.v_pool = memory(DType::kBF16, args.k_pool.shape);
  args.page_table = memory(DType::kI32, {batch, max_pages});
  args.lengths = memory(DType::kI32, {batch});
  return args;
}

LinearCrossEntropyArgs LinearCrossEntropy(bool with_gradient) {
  Memory memory;
  LinearCrossEntropyArgs args;
  args.hidden = memory(DType::kBF16, {2048, 2048});
  args.weight = {memory(DType::kBF16, {49152, 2048}).data, DType::kBF16, 49152, 2048};
  args.labels = memory(DType::kI32, {2048});
  args.loss = memory(DType::kF32, {1});
  args.count = memory(DType::kF32, {1});
  if (with_gradient) args.d_hidden = memory(DType::kF32, {2048, 2048});
  return args;
}

// The tensors of rank 16 of 60 layers of 4096².
template <class Args>
Args StepOf() {
  Memory memory;
  Args args;
  for (int i = 0; i < 120; ++i) {
    typename Args::Segment segment{};
    ForEachOperand(segment,
                   [&](TensorView& view, Access) { view = memory(DType::kF32, {4096, 16}); });
    args.segments.push_back(segment);
  }
  return args;
}

TEST_CASE("cuda launches: what calls launch, and where they wait") {
  const LinearCase one{4096, 4096, {4096}, 16}, qkv{4096, 4096, {4096, 1024, 1024}, 16};
  const LinearCase frozen{4096, 4096, {4096}, 0}, short_rows{40, 4096, {256}, 16};
  const LinearCase token{1, 4096, {4096, 1024, 1024}, 16};
  // As a Q4_K_M file mixes them, and one with a type that is expanded.
  LinearCase blocks = token;
  blocks.format = WeightFormat::kQ4_K;
  LoraLinearForwardArgs mixed = Forward(blocks), others = Forward(blocks);
  mixed.branches[2].weight.format = WeightFormat::kQ6_K;
  others.branches[1].weight.format = WeightFormat::kQ3_K;
  LinearCase nf4 = one, nf4_tokens = token, f32 = one;
  nf4.format = nf4_tokens.format = WeightFormat::kNF4;
  nf4_tokens.m = 40;
  // Gate and up of an 8B model, whose values are expanded in turn.
  LinearCase nf4_wide{1024, 4096, {14336, 14336}, 16, WeightFormat::kNF4}, nf4_short = nf4_wide;
  nf4_short.m = 512;
  f32.dtype = DType::kF32;
  f32.format = WeightFormat::kF32;
  Memory memory;
  const TensorView x = memory(DType::kBF16, {4096, 4096}), d = memory(DType::kBF16, {4096});
  const TensorView rstd = memory(DType::kF32, {4096});
  const TensorView norm = memory(DType::kF32, {1}), ids = memory(DType::kI32, {4096});
  const std::vector<TensorView> gradients(120, memory(DType::kF32, {4096, 16}));
  PageAppendArgs append;  // a token of each of two sequences
  append.q = memory(DType::kBF16, {2, 1, 32, 128});
  append.y = memory(DType::kBF16, append.q.shape);
  append.k = memory(DType::kBF16, {2, 1, 8, 128});
  append.v = memory(DType::kBF16, append.k.shape);
  append.cos = memory(DType::kF32, {1024, 64});
  append.sin = memory(DType::kF32, append.cos.shape);
  append.k_pool = memory(DType::kBF16, {32, 8, 64, 128});
  append.v_pool = memory(DType::kBF16, append.k_pool.shape);
  append.page_table = memory(DType::kI32, {2, 16});
  append.lengths = memory(DType::kI32, {2});
  EmbeddingArgs embedding;
  embedding.weight = {x.data, DType::kBF16, 4096, 4096};
  embedding.ids = ids;
  embedding.y = x;
  HostCopy host_ids(ids.data, ids.bytes());
  const std::vector<int32_t> values(4096, 1);
  host_ids.Wrote(ids.data, values.data(), ids.bytes());
  EmbeddingArgs known = embedding;
  known.ids.host_copy = &host_ids;
  const SampleArgs sample{memory(DType::kBF16, {2, 49152}), memory(DType::kF32, {2, 3}),
                          memory(DType::kI32, {2, 4}), memory(DType::kI32, {2})};
  const CrossEntropyForwardArgs cross_entropy{
      memory(DType::kBF16, {4096, 49152}), ids, norm, norm, rstd, {}, {}};
  const struct {
    const char* what;
    std::string list, expected;
  } cases[] = {
      {"forward, one branch", ListOf(Forward(one)),
       "Skinny<SkinnyForm::kDown, BF16>, 256 of 128, 62976 B\n"
       "GemmMma<BF16, GemmTile<128, 128, 3, 2>, false, true>, 1024 of 128, 49152 B, "
       "programmatic\n"},
      {"forward, q, k and v", ListOf(Forward(qkv)),
       "Skinny<SkinnyForm::kDown, BF16>, 288 of 128, 60416 B\n"
       "GemmMma<BF16, GemmTile<128, 128, 3, 2>, false, true>, 1536 of 128, 49152 B, "
       "programmatic\n"},
      {"forward, frozen", ListOf(Forward(frozen)),
       "GemmMma<BF16, GemmTile<128, 128, 3, 2>, false, true>, 1024 of 128, 49152 B\n"},
      {"forward, k is split", ListOf(Forward(short_rows)),
       "Skinny<SkinnyForm::kDown, BF16>, 36 of 128, 62976 B\n"
       "GemmMma<BF16, GemmTile<64, 64, 4, 5>, false, true>, 4x1x17 of 128, 32768 B, programmatic\n"
       "GemmReduce, 10 of 256\n"},
      {"forward, f32", ListOf(Forward(f32)),
       "Skinny<SkinnyForm::kDown, float>, 224 of 128, 56832 B\n"
       "GemmFma<FmaTile<128, 8, 2> >, 1024 of 256, 16896 B, programmatic\n"},
      {"forward, nf4", ListOf(Forward(nf4)),
       "Expand<BF16>, 8192 of 256, 64 B\n"
       "Skinny<SkinnyForm::kDown, BF16>, 256 of 128, 62976 B\n"
       "GemmMma<BF16, GemmTile<128, 128, 3, 2>, false, true>, 1024 of 128, 49152 B, "
       "programmatic\n"},
      {"forward, nf4 of 512 rows", ListOf(Forward(nf4_short)),
       "Skinny<SkinnyForm::kDown, BF16>, 576 of 128, 76800 B\n"
       "GemmMmaCoded<BF16, GemmTile<128, 128, 3, 2> >, 896 of 128, 49216 B, programmatic\n"},
      {"forward, nf4, in turn", ListOf(Forward(nf4_wide)),
       "Skinny<SkinnyForm::kDown, BF16>, 576 of 128, 76800 B\n"
       "Expand<BF16>, 28672 of 256, 64 B\n"
       "GemmMma<BF16, GemmTile<128, 128, 3, 2>, false, true>, 896 of 128, 49152 B\n"
       "Expand<BF16>, 28672 of 256, 64 B\n"
       "GemmMma<BF16, GemmTile<128, 128, 3, 2>, false, true>, 896 of 128, 49152 B\n"},
      {"forward, on a device of less shared memory", ListOf(Forward(one), k5090),
       "Skinny<SkinnyForm::kDown, BF16>, 320 of 128, 41984 B\n"
       "GemmMma<BF16, GemmTile<128, 128, 3, 2>, false, true>, 1024 of 128, 49152 B, "
       "programmatic\n"},
      {"backward, one branch", ListOf(Backward(one)),
       "Skinny<SkinnyForm::kUp, BF16>, 256 of 128, 64512 B\n"
       "GemmMma<BF16, GemmTile<128, 128, 3, 2>, false, false>, 1024 of 128, 49152 B, programmatic\n"
       "Skinny<SkinnyForm::kGradient, BF16>, 192 of 128, 64512 B\n"},
      {"backward, q, k and v", ListOf(Backward(qkv)),
       "Skinny<SkinnyForm::kUp, BF16>, 384 of 128, 64512 B\n"
       "GemmMma<BF16, GemmTile<128, 128, 3, 2>, false, false>, 1024 of 128, 49152 B, programmatic\n"
       "Skinny<SkinnyForm::kGradient, BF16>, 240 of 128, 59392 B\n"},
      {"backward, nf4, in turn", ListOf(Backward(nf4_wide)),
       "Skinny<SkinnyForm::kUp, BF16>, 336 of 128, 64512 B\n"
       "Expand<BF16>, 28672 of 256, 64 B\n"
       "GemmMma<BF16, GemmTile<128, 128, 3, 2>, false, false>, 256 of 128, 49152 B\n"
       "Expand<BF16>, 28672 of 256, 64 B\n"
       "GemmMma<BF16, GemmTile<128, 128, 3, 2>, false, false>, 256 of 128, 49152 B\n"
       "Skinny<SkinnyForm::kGradient, BF16>, 256 of 128, 76800 B\n"},
      {"backward, dx that keeps u", ListOf(FirstPart(one)),
       "Skinny<SkinnyForm::kUp, BF16>, 256 of 128, 64512 B\n"
       "GemmMma<BF16, GemmTile<128, 128, 3, 2>, false, false>, 1024 of 128, 49152 B, "
       "programmatic\n"},
      {"backward, the rest", ListOf(Rest(one)),
       "Skinny<SkinnyForm::kGradient, BF16>, 192 of 128, 64512 B\n"},
      {"a token", ListOf(Forward(token)),
       "LowRankDot<BF16>, 48 of 256, 32 B\n"
       "Decode<BF16, 1, false>, 384 of 256, 5760 B, programmatic\n"},
      {"40 tokens, nf4", ListOf(Forward(nf4_tokens)),
       "Skinny<SkinnyForm::kDown, BF16>, 32 of 128, 60416 B\n"
       "Decode<BF16, 2, true>, 384 of 256, 44288 B, programmatic\n"
       "Decode<BF16, 2, true>, 384 of 256, 44288 B, programmatic\n"
       "Decode<BF16, 1, true>, 384 of 256, 38528 B, programmatic\n"},
      {"a token, q4_k and q6_k", ListOf(mixed),
       "LowRankDot<BF16>, 48 of 256, 32 B\n"
       "DecodeBlocks<1, WeightFormat::kQ4_K>, 320 of 256, 5760 B, programmatic\n"
       "DecodeBlocks<1, WeightFormat::kQ6_K>, 64 of 256, 5760 B, programmatic\n"},
      {"a token, q4_k and q3_k", ListOf(others),
       "ExpandBlocks, 16384 of 256\n"
       "LowRankDot<BF16>, 48 of 256, 32 B\n"
       "Decode<BF16, 1, false>, 64 of 256, 5760 B, programmatic\n"
       "DecodeBlocks<1, WeightFormat::kQ4_K>, 320 of 256, 5760 B, programmatic\n"},
      {"a token, with a table", ListOf(WithTable(token)),
       "CheckTable, 1 of 256, 64 B\n"
       "host wait\n"
       "TableDown<BF16>, 48 of 256, 32 B\n"
       "Decode<BF16, 1, false>, 384 of 256, 5760 B\n"},
      {"attention", ListOf(Attention(1, 4096)),
       "AttentionMma<BF16, 128, 128, AttentionShape>, 1024 of 256, 66560 B\n"},
      {"attention, f32", ListOf(Attention(1, 4096, DType::kF32)),
       "AttentionFma<float, 128, AttentionShape>, 2048 of 256, 77312 B\n"},
      {"attention_backward", ListOf(AttentionBackward(1, 4096)),
       "QueryGradientsMma<BF16, 128>, 2048 of 128, 50176 B\n"
       "KeyGradientsMma<BF16, 128, 32>, 512 of 128, 66560 B\n"},
      {"attention_backward, 100 KiB", ListOf(AttentionBackward(1, 4096), k5090),
       "QueryGradientsMma<BF16, 128>, 2048 of 128, 50176 B\n"
       "KeyGradientsMma<BF16, 128, 16>, 512 of 128, 49664 B\n"},
      {"attention_backward, queries are split", ListOf(AttentionBackward(1, 256)),
       "QueryGradientsMma<BF16, 128>, 128 of 128, 50176 B\n"
       "KeyGradientsMma<BF16, 128, 32>, 128 of 128, 66560 B\n"},
      {"attention_paged, a token", ListOf(AttentionPaged(2, 1, 64)),
       "CheckPages, 1 of 512, 128 B\n"
       "host wait\n"
       "AttentionDecode<BF16, 128, PagedShape>, 208 of 128, 37504 B\n"},
      {"attention_paged, a chunk", ListOf(AttentionPaged(1, 512, 64)),
       "CheckPages, 1 of 512, 128 B\n"
       "host wait\n"
       "AttentionMma<BF16, 128, 64, PagedShape>, 256 of 128, 49664 B\n"},
      {"linear_cross_entropy", ListOf(LinearCrossEntropy(false)),
       "CheckIds, 1 of 512, 128 B\n"
       "host wait\n"
       "ListRows, 1 of 512, 64 B\n"
       "GatherRows<short unsigned int>, 1024 of 128\n"
       "GemmMmaLogits<BF16, GemmTile<128, 128, 3, 2> >, 3072 of 128, 49152 B\n"
       "RowLoss, 128 of 256\n"
       "GatherRows<short unsigned int>, 1024 of 128\n"
       "GemmMmaLogits<BF16, GemmTile<128, 128, 3, 2> >, 3072 of 128, 49152 B\n"
       "RowLoss, 128 of 256\n"
       "SumLosses, 1 of 512, 128 B\n"},
      {"linear_cross_entropy, with gradient", ListOf(LinearCrossEntropy(true)),
       "CheckIds, 1 of 512, 128 B\n"
       "host wait\n"
       "ListRows, 1 of 512, 64 B\n"
       "GatherRows<short unsigned int>, 1024 of 128\n"
       "GemmMmaLogits<BF16, GemmTile<128, 128, 3, 2> >, 3072 of 128, 49152 B\n"
       "RowLoss, 128 of 256\n"
       "RowGradient<BF16>, 1024x6 of 256\n"
       "GemmMma<BF16, GemmTile<128, 128, 3, 2>, false, false>, 128x1x3 of 128, 49152 B\n"
       "GemmReduce, 2048 of 256\n"
       "ScatterRows, 1024 of 128\n"
       "GatherRows<short unsigned int>, 1024 of 128\n"
       "GemmMmaLogits<BF16, GemmTile<128, 128, 3, 2> >, 3072 of 128, 49152 B\n"
       "RowLoss, 128 of 256\n"
       "RowGradient<BF16>, 1024x6 of 256\n"
       "GemmMma<BF16, GemmTile<128, 128, 3, 2>, false, false>, 128x1x3 of 128, 49152 B\n"
       "GemmReduce, 2048 of 256\n"
       "ScatterRows, 1024 of 128\n"
       "SumLosses, 1 of 512, 128 B\n"},
      {"cross_entropy", ListOf(cross_entropy),
       "CheckIds, 1 of 512, 128 B\n"
       "host wait\n"
       "SoftmaxLoss<BF16>, 4096 of 256, 32 B\n"
       "SumLosses, 1 of 512, 128 B\n"},
      {"rms_norm", ListOf(RmsNormForwardArgs{x, {}, d, 1e-5f, {}, x, rstd}),
       "RmsNorm<BF16, BF16, BF16, 256>, 4096 of 256, 32 B\n"},
      {"rms_norm_backward", ListOf(RmsNormBackwardArgs{x, d, rstd, x, {}, x, {}}),
       "RmsNormBackward<BF16, BF16, BF16, 256>, 4096 of 256, 32 B\n"},
      {"page_append", ListOf(append),
       "CheckPages, 1 of 512, 128 B\n"
       "host wait\n"
       "Rope<BF16>, 1 of 256\n"},
      {"embedding", ListOf(embedding),
       "CheckIds, 1 of 512, 128 B\n"
       "host wait\n"
       "Embedding<short unsigned int>, 4096 of 128\n"},
      {"embedding of ids that the host knows", ListOf(known),
       "Embedding<short unsigned int>, 4096 of 128\n"},
      {"sample", ListOf(sample),
       "SampleScan<BF16>, 2x7 of 256, 64 B\n"
       "SampleWeights<BF16>, 2x7 of 256, 64 B\n"
       "SampleDraw<BF16>, 2 of 512, 65664 B\n"
       "host wait\n"},
      {"adamw", ListOf(StepOf<AdamWArgs>()),
       "Step<AdamWRule, false>, 1376 of 256\n"
       "Step<AdamWRule, false>, 544 of 256\n"},
      {"sgd", ListOf(StepOf<SgdArgs>()),
       "Step<SgdRule<true>, false>, 1696 of 256\n"
       "Step<SgdRule<true>, false>, 224 of 256\n"},
      {"lion", ListOf(StepOf<LionArgs>()),
       "Step<LionRule, false>, 1696 of 256\n"
       "Step<LionRule, false>, 224 of 256\n"},
      {"global_norm", ListOf(GlobalNormArgs{gradients, norm}),
       "SumSquares, 480 of 256, 64 B\n"
       "Norm, 1 of 512, 128 B\n"},
      {"clip_by_norm", ListOf(ClipByNormArgs{gradients, norm, 1}), "Clip, 1920 of 256\n"},
  };
  for (const auto& c : cases) {
    CAPTURE(c.what);
    CHECK(c.list == c.expected);
  }
}

TEST_CASE("cuda launches: a list fails as the call does") {
  Memory memory;
  const TensorView ids = memory(DType::kI32, {2});
  HostCopy host_ids(ids.data, ids.bytes());
  const int32_t values[] = {1, 8};
  host_ids.Wrote(ids.data, values, sizeof values);
  EmbeddingArgs args;
  args.weight = {memory(DType::kBF16, {8, 64}).data, DType::kBF16, 8, 64};
  args.ids = ids;
  args.ids.host_copy = &host_ids;
  args.y = memory(DType::kBF16, {2, 64});
  CHECK_THROWS_AS(ListOf(args), Error);
}

TEST_CASE("cuda launches: which lists break the rule of programmatic launches") {
  PlannedStep ordinary, waits, wait;
  ordinary.kernel = "First";
  waits.kernel = "Second";
  waits.waits = true;
  wait.kind = PlannedStep::Kind::kWait;
  PlannedStep overlaps = waits, never_waits = ordinary;
  overlaps.shape.programmatic = never_waits.shape.programmatic = true;
  const auto broken = [](const std::vector<PlannedStep>& steps) { return cuda::BrokenRule(steps); };
  CHECK(broken({}) == "");
  CHECK(broken({ordinary, overlaps, overlaps, ordinary}) == "");
  CHECK(broken({waits}) == "");
  CHECK(broken({overlaps, ordinary}) ==
        "Second, 1 of 0, programmatic: it is the first of its call");
  CHECK(broken({wait, overlaps}) == "Second, 1 of 0, programmatic: it is the first of its call");
  CHECK(broken({ordinary, never_waits}) == "First, 1 of 0, programmatic: its kernel does not wait");
}

}  // namespace
}  // namespace lora::test
