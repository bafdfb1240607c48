// y = factor ⊙ (x·Wᵀ + scale·h·upᵀ) + bias with h = drop(x)·downᵀ, for every branch that shares x.
// The factor, of each column of y, and the bias are applied where the last sums are in registers.
//
// A prefill repacks up, and down where x is bf16 or tiles are multiplied. Then it takes a chunk of
// rows at a time:
//   1. By row tile: x is copied into blocks where it cannot be read in place, once for all
//      branches, and h is computed from the tile while the tile is in cache.
//   2. By panel of all branches: W is multiplied; on the last block of x the product runs r more
//      k-steps over [scale·h | up], so that LoRA never touches y in memory.
// Rows that have another slot of a table are another prefill. A decode step is in
// lora_linear_decode.cc.
#include "backend/cpu/lora/lora_linear.h"

#include <algorithm>
#include <vector>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/formats/pack.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/lora/lora_kernels.h"
#include "backend/cpu/product/panels.h"
#include "backend/cpu/runtime/arena.h"
#include "core/maths/philox.h"

namespace lora::cpu {
namespace {

struct ForwardBranch {
  size_t n = 0, r = 0;                      // r 0: no LoRA
  size_t rank_elements = 0, rank_size = 0;  // of RankElements and RankSize
  bool dropout = false, has_bias = false;
  float* bias = nullptr;         // [n] f32, or null
  uint32_t* up = nullptr;        // in panels
  uint32_t* down = nullptr;      // [r, k] in bf16, where x is; for tiles of NarrowColumnsOf
  uint32_t* low_rank = nullptr;  // [chunk][rank_size]: scale·h
  Pass* passes = nullptr;
};

// The sizes of a call and, from Take on, the addresses of everything in scratch.
struct ForwardPlan {
  size_t m = 0, k = 0, chunk = 0, h_size = 0;
  size_t tile_rows = 0;  // of phase 1
  Operands operands = Operands::kF32;
  bool pairs = false;  // of bf16
  bool tiles = false;  // h is a product of tile registers
  bool dropout = false;
  size_t block_elements = 0;  // of ProductScratch
  Blocks blocks;
  std::vector<ForwardBranch> branches;
  uint32_t* x = nullptr;     // blocks of a chunk
  float* h = nullptr;        // per thread [tile_rows][largest r], where no branch keeps it
  float* sums = nullptr;     // per thread [tile_rows][largest padded r], of tiles
  uint32_t* kept = nullptr;  // per thread [tile_rows][blocks.stride], of tiles with dropout
  uint8_t* mask = nullptr;   // per thread [tile_rows][MaskStride(k)]
  ProductScratch product;
  Product* products = nullptr;

  explicit ForwardPlan(const LoraLinearForwardArgs& args);
  void Take(Arena& arena, size_t threads);
};

ForwardBranch PlanBranch(const LoraBranch& branch, Operands operands) {
  ForwardBranch b;
  b.n = static_cast<size_t>(branch.weight.rows);
  b.r = branch.up ? static_cast<size_t>(branch.up.dim(1)) : 0;
  b.rank_elements = RankElements(b.r, operands);
  b.rank_size = RankSize(b.r, operands);
  b.dropout = b.r != 0 && branch.dropout.active();
  b.has_bias = branch.bias.defined;
  return b;
}

ForwardPlan::ForwardPlan(const LoraLinearForwardArgs& args)
    : m(static_cast<size_t>(args.x.dim(0))),
      k(static_cast<size_t>(args.x.dim(1))),
      operands(OperandsOf(args.x.dtype == DType::kBF16)),
      pairs(args.x.dtype == DType::kBF16) {
  tiles = NarrowTiles(operands);
  tile_rows = NarrowRows(operands);
  blocks = Blocks(k, operands);
  chunk = ChunkRows(m, blocks.Size(1));
  size_t rank = 0;
  for (const LoraBranch& branch : args.branches) {
    branches.push_back(PlanBranch(branch, operands));
    rank = std::max(rank, branches.back().r);
    dropout = dropout || (branch.up && branch.dropout.active());
    if (!ReadsPanels(operands, PanelsOf(branch.weight))) {
      block_elements = BlockElements(operands, blocks.elements);
    }
  }
  h_size = tile_rows * PaddedRank(rank);
}

void ForwardPlan::Take(Arena& arena, size_t threads) {
  x = arena.Take<uint32_t>(blocks.Size(chunk));
  h = arena.Take<float>(threads * h_size);
  if (tiles) sums = arena.Take<float>(threads * h_size);
  if (dropout) {
    mask = arena.Take<uint8_t>(threads * tile_rows * MaskStride(k));
    if (tiles) kept = arena.Take<uint32_t>(threads * tile_rows * blocks.stride);
  }
  product = ProductScratch::Take(arena, threads, chunk, pairs, block_elements);
  products = arena.Take<Product>(branches.size());
  for (ForwardBranch& b : branches) {
    if (b.has_bias) b.bias = arena.Take<float>(b.n);
    if (b.r != 0) {
      b.up = arena.Take<uint32_t>(Panels(b.n, PanelWidth()) * PanelWidth() * b.rank_size);
      if (tiles) {
        b.down = arena.Take<uint32_t>(NarrowSize(k, b.r, operands));
      } else if (pairs) {
        b.down = arena.Take<uint32_t>(CeilDiv(b.r * k, size_t{2}));
      }
      b.low_rank = arena.Take<uint32_t>(chunk * b.rank_size);
    }
    b.passes = arena.Take<Pass>(blocks.count);
  }
}

// h ← scale · keep(x) · downᵀ for rows `r` of x, by tile registers. `mask` may be null.
void MultiplyDownTiles(const ForwardPlan& plan, const ForwardBranch& s, const BlockedRows& x,
                       Range r, const uint8_t* mask, float scale, float* h, size_t thread) {
  const size_t count = r.end - r.begin, r_padded = PaddedRank(s.r);
  float* const sums = plan.sums + thread * plan.h_size;
  for (size_t b = 0; b < plan.blocks.count; ++b) {
    const size_t begin = plan.blocks.Begin(b), length = plan.blocks.Length(b);
    const uint32_t* from = x.At(b, r.begin);
    size_t stride = x.row_stride;
    if (mask) {
      uint32_t* const kept = plan.kept + thread * plan.tile_rows * plan.blocks.stride;
      KeepElements(from, stride, plan.operands, count, length, mask + 2 * begin / 8,
                   MaskStride(plan.k), kept, plan.blocks.stride);
      from = kept;
      stride = plan.blocks.stride;
    }
    MultiplyUpTransposed(from, stride, plan.operands, count, length,
                         s.down + NarrowSize(2 * begin, s.r, plan.operands), r_padded, b != 0,
                         sums);
  }
  ScaleToElements(sums, r_padded, count, s.r, scale, Operands::kF32, reinterpret_cast<uint32_t*>(h),
                  s.r);
}

// Does phase 1 for one row tile: rows [r.begin, r.end) of the chunk that begins at row m0.
void ReadTile(const LoraLinearForwardArgs& args, const ForwardPlan& plan, size_t m0, size_t rows,
              Range r, size_t thread) {
  const RowsOfX of_chunk = RowsFrom(args.x, m0);
  CopyBlocks(plan.blocks, of_chunk, rows, r, plan.x);
  const size_t count = r.end - r.begin, row = m0 + r.begin;
  for (size_t i = 0; i < args.branches.size(); ++i) {
    const LoraBranch& branch = args.branches[i];
    const ForwardBranch& s = plan.branches[i];
    if (s.r == 0) continue;
    const uint8_t* mask = nullptr;
    float scale = 1;
    if (s.dropout) {
      uint8_t* to = plan.mask + thread * plan.tile_rows * MaskStride(plan.k);
      DropoutMask(branch.dropout, {row, row + count}, plan.k, to);
      mask = to;
      scale = DropoutScale(DropoutThreshold(branch.dropout.p));
    }
    float* h = Keeps(args.h, i) ? args.h[i].as<float>() + row * s.r : plan.h + thread * plan.h_size;
    const std::byte* x = RowOf(args.x, row);
    if (plan.tiles) {
      MultiplyDownTiles(plan, s, BlocksOf(plan.blocks, of_chunk, rows, plan.x), r, mask, scale, h,
                        thread);
    } else if (plan.pairs) {
      MultiplyDownPairs(reinterpret_cast<const uint16_t*>(x), count, plan.k, mask,
                        reinterpret_cast<const uint16_t*>(s.down), s.r, scale, h);
    } else {
      MultiplyDown(x, false, count, plan.k, mask, branch.down.as<float>(), s.r, scale, h);
    }
    ScaleToElements(h, s.r, count, s.r, branch.scale, plan.operands,
                    s.low_rank + r.begin * s.rank_size, s.rank_size);
  }
}

// Repacks up and down, with a task for each panel of up and one for each down.
void Repack(const LoraLinearForwardArgs& args, const ForwardPlan& plan, CpuContext& context) {
  const size_t count = args.branches.size(), width = PanelWidth();
  size_t panels = 0;
  for (size_t i = 0; i < count; ++i) {
    if (plan.branches[i].r != 0) panels += Panels(plan.branches[i].n, width);
  }
  context.ParallelFor(panels + (plan.pairs || plan.tiles ? count : 0), [&](size_t task, size_t) {
    for (size_t i = 0; i < count; ++i) {
      const ForwardBranch& s = plan.branches[i];
      if (s.r == 0) continue;
      const size_t of_branch = Panels(s.n, width);
      if (task < of_branch) {
        PackUpPanel(args.branches[i].up.as<float>(), s.n, s.r, plan.operands, task, s.up);
        return;
      }
      task -= of_branch;
    }
    const ForwardBranch& s = plan.branches[task];
    if (s.r == 0) return;
    const TensorView& down = args.branches[task].down;
    if (plan.tiles) {
      return NarrowColumnsOf(down.as<float>(), s.r, plan.k, plan.operands, s.down);
    }
    const size_t size = s.r * plan.k;
    CopyElements(down.data, false, size, 1, size, plan.operands, s.down, size);
  });
}

Product OutputOf(const LoraLinearForwardArgs& args, const ForwardPlan& plan, size_t i, size_t m0) {
  const ForwardBranch& s = plan.branches[i];
  Product product;
  product.operands = plan.operands;
  product.n = s.n;
  const TensorView& factor = args.branches[i].factor;
  if (factor) product.factor = factor.as<float>();
  product.bias = s.bias;
  product.y = const_cast<std::byte*>(RowOf(args.y[i], m0));
  product.y_is_bf16 = plan.pairs;
  product.ldy = s.n;
  return product;
}

void ForwardChunks(const LoraLinearForwardArgs& args, const ForwardPlan& plan,
                   CpuContext& context) {
  Repack(args, plan, context);
  for (size_t m0 = 0; m0 < plan.m; m0 += plan.chunk) {
    const size_t rows = std::min(plan.chunk, plan.m - m0), tiles = CeilDiv(rows, plan.tile_rows);
    context.ParallelFor(tiles, [&](size_t tile, size_t thread) {
      ReadTile(args, plan, m0, rows, Split(rows, tiles, tile), thread);
    });
    const BlockedRows x = BlocksOf(plan.blocks, RowsFrom(args.x, m0), rows, plan.x);
    for (size_t i = 0; i < args.branches.size(); ++i) {
      const ForwardBranch& s = plan.branches[i];
      const size_t count = BlockPasses(plan.blocks, x, PanelsOf(args.branches[i].weight), s.passes);
      if (s.r != 0) {
        s.passes[count - 1].extra = {s.low_rank, s.rank_size, RankPanels(s.up, s.r, plan.operands),
                                     s.rank_elements};
      }
      plan.products[i] = OutputOf(args, plan, i, m0);
      plan.products[i].passes = {s.passes, count};
    }
    MultiplyAll(&context, {plan.products, args.branches.size()}, rows, plan.product, plan.chunk);
  }
}

bool IsDecode(const LoraLinearForwardArgs& args) {
  if (args.phase != LinearPhase::kAuto) return args.phase == LinearPhase::kDecode;
  return args.x.dim(0) <= kFewRows &&
         std::ranges::none_of(args.branches, [](const LoraBranch& branch) {
           return branch.up && branch.dropout.active();
         });
}

// Returns the branches of a call as if all their changes had the largest rank.
LoraLinearForwardArgs WithMaxRanks(LoraLinearForwardArgs args) {
  for (LoraBranch& branch : args.branches) {
    const int64_t rank = static_cast<int64_t>(MaxRankOf(args, branch));
    if (branch.up || rank == 0) continue;
    branch.up = TensorView(nullptr, DType::kF32, {branch.weight.rows, rank});
    branch.down = TensorView(nullptr, DType::kF32, {rank, branch.weight.cols});
  }
  return args;
}

// Returns the call of rows [begin, end), which have one slot, with the change of that slot.
LoraLinearForwardArgs CallOfSlot(const LoraLinearForwardArgs& args, size_t begin, size_t end) {
  const auto rows = [&](const TensorView& view) {
    return TensorView(RowOf(view, begin), view.dtype,
                      {static_cast<int64_t>(end - begin), view.dim(1)});
  };
  const auto view = [](const void* data, const Shape& shape) {
    return TensorView(const_cast<void*>(data), DType::kF32, shape);
  };
  LoraLinearForwardArgs call;
  call.x = rows(args.x);
  for (size_t i = 0; i < args.branches.size(); ++i) {
    LoraBranch branch = args.branches[i];
    const DeltaEntry& entry = EntryOf(args, i, static_cast<int64_t>(begin));
    branch.site = LoraBranch::kNoSite;
    if (entry.rank != 0) {
      branch.up = view(entry.up, {branch.weight.rows, entry.rank});
      branch.down = view(entry.down, {entry.rank, branch.weight.cols});
      branch.scale = entry.scale;
      if (entry.factor) branch.factor = view(entry.factor, {branch.weight.rows});
    }
    call.branches.push_back(branch);
    call.y.push_back(rows(args.y[i]));
    call.h.push_back(args.h[i] ? rows(args.h[i]) : TensorView());
  }
  return call;
}

void Prefill(const LoraLinearForwardArgs& args, ForwardPlan plan, Scratch scratch,
             CpuContext& context) {
  if (plan.m == 0) return;
  Arena arena(scratch);
  plan.Take(arena, static_cast<size_t>(context.threads()));
  for (size_t i = 0; i < args.branches.size(); ++i) {
    if (plan.branches[i].bias)
      ConvertToF32(args.branches[i].bias.data, args.branches[i].bias.dtype, plan.branches[i].n,
                   plan.branches[i].bias);
  }
  ForwardChunks(args, plan, context);
}

// What the slots of a table have is read when the call runs, and so each of them is planned then.
void PrefillSlots(const LoraLinearForwardArgs& args, Scratch scratch, Context& context) {
  const size_t m = static_cast<size_t>(args.x.dim(0));
  for (size_t begin = 0, end; begin < m; begin = end) {
    end = EndOfSlot(args, begin);
    const LoraLinearForwardArgs call = CallOfSlot(args, begin, end);
    Prefill(call, ForwardPlan(call), scratch, static_cast<CpuContext&>(context));
  }
}

// Returns the call of those branches that multiply whole numbers, or of the others.
LoraLinearForwardArgs BranchesOf(const LoraLinearForwardArgs& args, bool whole) {
  LoraLinearForwardArgs some = args;
  some.branches.clear();
  some.y.clear();
  some.h.clear();
  for (size_t i = 0; i < args.branches.size(); ++i) {
    if (MultipliesWholeNumbers(args.branches[i]) != whole) continue;
    some.branches.push_back(args.branches[i]);
    some.y.push_back(args.y[i]);
    some.h.push_back(args.h[i]);
  }
  return some;
}

PlannedCall PlanExact(const LoraLinearForwardArgs& args, int threads) {
  if (IsDecode(args)) return PlanDecode(args, threads);
  const ForwardPlan plan(WithMaxRanks(args));
  Arena arena;
  ForwardPlan(plan).Take(arena, static_cast<size_t>(threads));
  if (args.table) return CallOf<LoraLinearForwardArgs>(args, arena.bytes(), PrefillSlots);
  return {arena.bytes(), [args, plan](Scratch scratch, Context& context) {
            Prefill(args, plan, scratch, static_cast<CpuContext&>(context));
          }};
}

}  // namespace

// Whole numbers are multiplied by the kernel of a decode step, for any number of rows. Tile
// registers multiply the values of more rows than a step has in less time: sums that are scaled
// for each 32 values would leave them idle.
PlannedCall PlanCall(const LoraLinearForwardArgs& args, int threads) {
  const auto whole = std::ranges::count_if(args.branches, MultipliesWholeNumbers);
  if (whole == 0 || (MultipliesTiles() && !IsDecode(args))) {
    LoraLinearForwardArgs exact = args;
    for (LoraBranch& branch : exact.branches) branch.activations = Activations::kExact;
    return PlanExact(exact, threads);
  }
  if (whole == std::ssize(args.branches)) return PlanDecode(args, threads);
  PlannedCall first = PlanDecode(BranchesOf(args, true), threads);
  PlannedCall second = PlanExact(BranchesOf(args, false), threads);
  const size_t bytes = std::max(first.scratch_bytes, second.scratch_bytes);
  return {bytes, [first = std::move(first.run), second = std::move(second.run)](
                     Scratch scratch, Context& context) mutable {
            first(scratch, context);
            second(scratch, context);
          }};
}

template PlannedCall Plan(const LoraLinearForwardArgs&, int);
}  // namespace lora::cpu
