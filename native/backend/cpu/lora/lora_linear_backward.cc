// With u = g·A per branch:
//   dx = Σ over branches (g·W + keep(scale·u·down))
//   d_up = scale·gᵀ·h
//   d_down = scale·uᵀ·keep(x)
//
//   0. up and down are repacked.
//   1. By row tile: g of every branch is copied into blocks where it cannot be read in place; u is
//      summed from it in f32 and rounded to the elements of the product. It is not where an earlier
//      call has kept u.
//   2. By panel of dx: the products of all branches are summed in f32 and rounded once. The LoRA
//      term is r more k-steps on the last block of g, or with dropout a pass of its own.
//   3. By columns: the outer products of d_up and d_down, whose sums over the rows stay in
//      registers and are added in row order. Where g is bf16, h and u are rounded to it and paired
//      by rows; where tiles multiply f32, they are split.
// How the work is split over threads changes no result.
#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "backend/cpu/formats/pack.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/lora/lora_kernels.h"
#include "backend/cpu/lora/lora_linear.h"
#include "backend/cpu/product/panels.h"
#include "backend/cpu/runtime/arena.h"
#include "core/maths/philox.h"

namespace lora::cpu {
namespace {

struct BackwardBranch {
  size_t n = 0, r = 0, r_padded = 0, rank_elements = 0, rank_size = 0;
  bool needs_u = false, keeps_u = false, wants_up = false, wants_down = false, dropout = false;
  float dropout_scale = 1;
  Blocks blocks;                                    // of g
  uint32_t* g = nullptr;                            // blocks of a chunk
  uint32_t* a = nullptr;                            // up of NarrowRowsOf, or padded f32
  float* u = nullptr;                               // [m, u_stride]
  size_t u_stride = 0;                              // r_padded, or r of one that is given
  uint32_t* low_rank = nullptr;                     // [chunk][rank_size]: scale·u
  uint32_t *h_pairs = nullptr, *u_pairs = nullptr;  // of PackOuter, unless f32 is multiplied
  uint32_t* down = nullptr;                         // transposed, in panels
  uint8_t* mask = nullptr;                          // [m][MaskStride(in)]
};

// The sizes of a call and, from Take on, the addresses of everything in scratch.
struct BackwardPlan {
  size_t m = 0, in = 0, chunk = 0, pass_count = 0;
  size_t longest = 0;  // elements of a reduction
  Operands operands = Operands::kF32;
  bool pairs = false;       // of bf16
  bool needs_rows = false;  // of g, for products, or of masks
  bool wants_dx = false;
  std::vector<BackwardBranch> branches;
  ProductScratch product;
  Pass* passes = nullptr;
  Outer* outers = nullptr;  // two per branch

  explicit BackwardPlan(const LoraLinearBackwardArgs& args);
  void Take(Arena& arena, size_t threads);
};

BackwardBranch PlanBranch(const LoraLinearBackwardArgs& args, size_t i, Operands operands) {
  const LoraBranch& branch = args.branches[i];
  BackwardBranch s;
  s.n = static_cast<size_t>(branch.weight.rows);
  s.blocks = Blocks(s.n, operands);
  if (!branch.up) return s;
  s.r = static_cast<size_t>(branch.up.dim(1));
  s.r_padded = PaddedRank(s.r);
  s.rank_elements = RankElements(s.r, operands);
  s.rank_size = RankSize(s.r, operands);
  s.wants_up = IsAt(args.d_up, i);
  s.wants_down = IsAt(args.d_down, i);
  s.keeps_u = IsAt(args.kept_u, i);
  s.needs_u = (args.dx || s.wants_down || s.keeps_u) && !IsAt(args.u, i);
  s.u_stride = s.needs_u ? s.r_padded : s.r;
  if (IsAt(args.u, i)) s.u = args.u[i].as<float>();
  s.dropout = (args.dx || s.wants_down) && branch.dropout.active();
  if (s.dropout) s.dropout_scale = DropoutScale(DropoutThreshold(branch.dropout.p));
  return s;
}

BackwardPlan::BackwardPlan(const LoraLinearBackwardArgs& args) : wants_dx(args.dx.defined) {
  const size_t count = args.branches.size();
  const TensorView& rows = count != 0 ? args.g[0] : args.dx;
  pairs = rows.dtype == DType::kBF16;
  m = static_cast<size_t>(rows.dim(0));
  operands = OperandsOf(pairs);
  // So few rows do not pay for splitting W.
  if (!pairs && rows.dim(0) <= kFewRows) operands = Operands::kF32;
  in = static_cast<size_t>(count != 0 ? args.branches[0].weight.cols : args.dx.dim(1));
  needs_rows = wants_dx;
  size_t elements = 0;
  for (size_t i = 0; i < count; ++i) {
    const BackwardBranch& s = branches.emplace_back(PlanBranch(args, i, operands));
    elements += s.blocks.Size(1);
    longest = std::max(longest, s.blocks.elements);
    pass_count += s.blocks.count + 1;
    needs_rows = needs_rows || s.needs_u || s.dropout;
  }
  pass_count = std::max<size_t>(1, pass_count);
  chunk = ChunkRows(m, elements);
}

void BackwardPlan::Take(Arena& arena, size_t threads) {
  outers = arena.Take<Outer>(2 * branches.size());
  if (wants_dx) {
    passes = arena.Take<Pass>(pass_count);
    product = ProductScratch::Take(arena, threads, chunk, pairs, BlockElements(operands, longest));
  }
  for (BackwardBranch& s : branches) {
    if (wants_dx || s.needs_u) s.g = arena.Take<uint32_t>(s.blocks.Size(chunk));
    if (s.needs_u) {
      if (operands != Operands::kF32 || s.r != s.r_padded) {
        s.a = arena.Take<uint32_t>(NarrowSize(s.n, s.r, operands));
      }
      s.u = arena.Take<float>(m * s.u_stride);
      if (wants_dx) {
        s.low_rank = arena.Take<uint32_t>(chunk * s.rank_size);
        s.down = arena.Take<uint32_t>(Panels(in, PanelWidth()) * PanelWidth() * s.rank_size);
      }
    }
    if (s.dropout) s.mask = arena.Take<uint8_t>(m * MaskStride(in));
    if (operands != Operands::kF32) {
      const size_t size = OuterSize(m, s.r, operands);
      if (s.wants_up) s.h_pairs = arena.Take<uint32_t>(size);
      if (s.wants_down) s.u_pairs = arena.Take<uint32_t>(size);
    }
  }
}

// Does phase 0, with one task per panel of down of any branch, and one per branch for up.
void Repack(const LoraLinearBackwardArgs& args, const BackwardPlan& plan, CpuContext& context) {
  const size_t panels = args.dx ? Panels(plan.in, PanelWidth()) : 0;
  context.ParallelFor(args.branches.size() * (panels + 1), [&](size_t task, size_t) {
    const size_t i = task / (panels + 1), panel = task % (panels + 1);
    const LoraBranch& branch = args.branches[i];
    const BackwardBranch& s = plan.branches[i];
    if (panel < panels) {
      if (s.needs_u) {
        PackDownPanel(branch.down.as<float>(), plan.in, s.r, plan.operands, panel, s.down);
      }
    } else if (s.a != nullptr) {
      const float* a = branch.up.as<float>();
      if (plan.operands != Operands::kF32) return NarrowRowsOf(a, s.n, s.r, plan.operands, s.a);
      for (size_t j = 0; j < s.n; ++j) {
        uint32_t* to = s.a + j * s.r_padded;
        std::memcpy(to, a + j * s.r, s.r * sizeof(float));
        std::fill(to + s.r, to + s.r_padded, 0u);
      }
    }
  });
}

// Does phase 1 for rows [r.begin, r.end) of the chunk that begins at row m0.
void ReadTile(const LoraLinearBackwardArgs& args, const BackwardPlan& plan, size_t m0, size_t rows,
              Range r) {
  const size_t count = r.end - r.begin, row = m0 + r.begin;
  for (size_t i = 0; i < args.branches.size(); ++i) {
    const BackwardBranch& s = plan.branches[i];
    if (s.dropout) {
      DropoutMask(args.branches[i].dropout, {row, row + count}, plan.in,
                  s.mask + row * MaskStride(plan.in));
    }
    if (s.g == nullptr) continue;
    const RowsOfX g = RowsFrom(args.g[i], m0);
    CopyBlocks(s.blocks, g, rows, r, s.g);
    if (!s.needs_u) continue;
    const uint32_t* a = s.a ? s.a : args.branches[i].up.as<const uint32_t>();
    float* u = s.u + row * s.u_stride;
    const BlockedRows from = BlocksOf(s.blocks, g, rows, s.g);
    for (size_t b = 0; b < s.blocks.count; ++b) {
      const size_t begin = s.blocks.Begin(b) * ValuesPerElement(plan.operands);
      MultiplyUpTransposed(from.At(b, r.begin), from.row_stride, plan.operands, count,
                           s.blocks.Length(b), a + NarrowSize(begin, s.r, plan.operands),
                           s.r_padded, b != 0, u);
    }
    if (s.low_rank) {
      ScaleToElements(u, s.r_padded, count, s.r, args.branches[i].scale * s.dropout_scale,
                      plan.operands, s.low_rank + r.begin * s.rank_size, s.rank_size);
    }
    if (!s.keeps_u) continue;
    float* const kept = args.kept_u[i].as<float>() + row * s.r;
    for (size_t j = 0; j < count; ++j) {
      std::memcpy(kept + j * s.r, u + j * s.u_stride, s.r * sizeof(float));
    }
  }
}

void MultiplyDx(const LoraLinearBackwardArgs& args, const BackwardPlan& plan, size_t m0,
                size_t rows, CpuContext& context) {
  size_t count = 0;
  for (size_t i = 0; i < args.branches.size(); ++i) {
    const BackwardBranch& s = plan.branches[i];
    const BlockedRows g = BlocksOf(s.blocks, RowsFrom(args.g[i], m0), rows, s.g);
    count +=
        BlockPasses(s.blocks, g, TransposedPanelsOf(args.branches[i].weight), plan.passes + count);
    if (s.r == 0) continue;
    const Step lora = {s.low_rank, s.rank_size, RankPanels(s.down, s.r, plan.operands),
                       s.rank_elements};
    if (s.dropout) {
      Pass pass;
      pass.main = lora;
      pass.mask_stride = MaskStride(plan.in);
      pass.mask = s.mask + m0 * pass.mask_stride;
      plan.passes[count++] = pass;
    } else {
      plan.passes[count - 1].extra = lora;
    }
  }
  if (count == 0) plan.passes[count++] = Pass();
  Product product;
  product.operands = plan.operands;
  product.passes = {plan.passes, count};
  product.n = plan.in;
  product.y = args.dx.as<std::byte>() + m0 * plan.in * SizeOf(args.dx.dtype);
  product.y_is_bf16 = plan.pairs;
  product.ldy = plan.in;
  MultiplyAll(&context, {&product, 1}, rows, plan.product, plan.chunk);
}

// Does what phase 3 needs of the low-rank vectors: a task packs h or u of a branch.
void PairLowRank(const LoraLinearBackwardArgs& args, const BackwardPlan& plan,
                 CpuContext& context) {
  const auto has_pairs = [](const BackwardBranch& s) { return s.h_pairs || s.u_pairs; };
  if (std::ranges::none_of(plan.branches, has_pairs)) return;
  context.ParallelFor(2 * args.branches.size(), [&](size_t task, size_t) {
    const BackwardBranch& s = plan.branches[task / 2];
    if (task % 2 == 0 && s.h_pairs != nullptr) {
      PackOuter(args.h[task / 2].as<const float>(), s.r, plan.m, s.r, plan.operands, s.h_pairs);
    } else if (task % 2 == 1 && s.u_pairs != nullptr) {
      PackOuter(s.u, s.u_stride, plan.m, s.r, plan.operands, s.u_pairs);
    }
  });
}

Outer GradientA(const LoraLinearBackwardArgs& args, const BackwardPlan& plan, size_t i) {
  const BackwardBranch& s = plan.branches[i];
  Outer outer;
  outer.operands = plan.operands;
  outer.v = s.h_pairs ? s.h_pairs : args.h[i].as<const uint32_t>();
  outer.v_stride = s.r;
  outer.m = plan.m;
  outer.r = s.r;
  outer.n = s.n;
  outer.scale = args.branches[i].scale;
  outer.z = args.g[i].data;
  outer.out = args.d_up[i].as<float>();
  outer.transposed = true;
  return outer;
}

Outer GradientB(const LoraLinearBackwardArgs& args, const BackwardPlan& plan, size_t i) {
  const BackwardBranch& s = plan.branches[i];
  Outer outer;
  outer.operands = plan.operands;
  outer.v = s.u_pairs ? s.u_pairs : reinterpret_cast<const uint32_t*>(s.u);
  outer.v_stride = s.u_pairs ? s.r : s.u_stride;
  outer.m = plan.m;
  outer.r = s.r;
  outer.n = plan.in;
  outer.scale = args.branches[i].scale * s.dropout_scale;
  outer.z = args.x.data;
  outer.mask = s.mask;
  outer.out = args.d_down[i].as<float>();
  return outer;
}

// Writes the outer products that are wanted. Those with the same z and mask follow each other.
std::span<const Outer> ListOuters(const LoraLinearBackwardArgs& args, const BackwardPlan& plan) {
  Outer* end = plan.outers;
  const size_t count = args.branches.size();
  for (size_t i = 0; i < count; ++i) {
    if (IsAt(args.d_up, i)) *end++ = GradientA(args, plan, i);
  }
  for (const bool dropout : {false, true}) {
    for (size_t i = 0; i < count; ++i) {
      if (plan.branches[i].dropout == dropout && IsAt(args.d_down, i)) {
        *end++ = GradientB(args, plan, i);
      }
    }
  }
  return {plan.outers, end};
}

// Returns how many outer products at the front of a list share z.
size_t SharingZ(std::span<const Outer> outers) {
  size_t count = 1;
  while (count < outers.size() && outers[count].z == outers[0].z &&
         outers[count].mask == outers[0].mask && outers[count].n == outers[0].n) {
    ++count;
  }
  return count;
}

void MultiplyGradients(const LoraLinearBackwardArgs& args, const BackwardPlan& plan,
                       CpuContext& context) {
  const std::span<const Outer> all = ListOuters(args, plan);
  size_t tasks = 0;
  for (size_t i = 0; i < all.size(); i += SharingZ(all.subspan(i))) {
    tasks += Panels(all[i].n, kOuterColumns);
  }
  context.ParallelFor(tasks, [&](size_t task, size_t) {
    for (std::span<const Outer> rest = all;;) {
      const size_t sharing = SharingZ(rest), count = Panels(rest[0].n, kOuterColumns);
      if (task < count) {
        const size_t begin = task * kOuterColumns;
        return MultiplyOuters(rest.first(sharing),
                              {begin, std::min(rest[0].n, begin + kOuterColumns)});
      }
      task -= count;
      rest = rest.subspan(sharing);
    }
  });
}

void RunBackward(const LoraLinearBackwardArgs& args, BackwardPlan plan, Scratch scratch,
                 CpuContext& context) {
  Arena arena(scratch);
  plan.Take(arena, static_cast<size_t>(context.threads()));
  if (plan.needs_rows && plan.m != 0) {
    Repack(args, plan, context);
    for (size_t m0 = 0; m0 < plan.m; m0 += plan.chunk) {
      const size_t rows = std::min(plan.chunk, plan.m - m0);
      const size_t tiles = CeilDiv(rows, NarrowRows(plan.operands));
      context.ParallelFor(tiles, [&](size_t tile, size_t) {
        ReadTile(args, plan, m0, rows, Split(rows, tiles, tile));
      });
      if (args.dx) MultiplyDx(args, plan, m0, rows, context);
    }
  }
  PairLowRank(args, plan, context);
  MultiplyGradients(args, plan, context);
}

}  // namespace

PlannedCall PlanCall(const LoraLinearBackwardArgs& args, int threads) {
  if (args.branches.empty() && !args.dx) return {0, [](Scratch, Context&) {}};
  const BackwardPlan plan(args);
  Arena arena;
  BackwardPlan(plan).Take(arena, static_cast<size_t>(threads));
  return {arena.bytes(), [args, plan](Scratch scratch, Context& context) {
            RunBackward(args, plan, scratch, static_cast<CpuContext&>(context));
          }};
}

template PlannedCall Plan(const LoraLinearBackwardArgs&, int);
}  // namespace lora::cpu
