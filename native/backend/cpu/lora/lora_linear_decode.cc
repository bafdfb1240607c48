// The decode step of lora_linear: y = factor ⊙ (x·Wᵀ + scale·h·upᵀ) + bias with h = x·downᵀ, for
// rows of x that belong to different sequences. x is read in place. With few rows every thread
// computes h itself; otherwise the threads share that work. Then each streams its share of W once
// for all rows, whatever their slots in a table are.
#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/formats/pack.h"
#include "backend/cpu/lora/lora_kernels.h"
#include "backend/cpu/lora/lora_linear.h"
#include "backend/cpu/product/panels.h"
#include "backend/cpu/runtime/arena.h"
#include "core/maths/blocks.h"

namespace lora::cpu {
namespace {

// The most rows whose h is computed at a time.
constexpr size_t kHiddenRows = 4;
static_assert(kFewRows <= kHiddenRows);

// Rows of a branch that share up and down.
struct Change {
  Range rows{0, 0};
  const void* up = nullptr;
  const void* down = nullptr;
  size_t r = 0;  // 0: no LoRA
  float scale = 0;
};

struct DecodeBranch {
  size_t n = 0, max_r = 0;
  bool has_bias = false;
  size_t h = 0;  // where its h begins in a copy: m · max_r elements, by change
  size_t changes_count = 0;
  Change* changes = nullptr;        // in the order of the rows
  const float** factors = nullptr;  // [m], each [n] or null; null without a table
  float* bias = nullptr;            // [n] f32, or null
  Pass* pass = nullptr;
};

// The sizes of a call and, from Take on, the addresses of everything in scratch.
struct DecodePlan {
  size_t m = 0, k = 0, elements = 0, h_size = 0;
  Operands operands = Operands::kF32;
  bool pairs = false, shares_h = false;
  bool low_pairs = false;  // up, down and h are bf16 too
  bool has_table = false;
  size_t block_elements = 0;  // of ProductScratch
  std::vector<DecodeBranch> branches;
  uint32_t* x = nullptr;        // [m][elements], where x cannot be read in place
  size_t values_size = 0;       // m·k, where some W has codes and x is bf16
  float* values = nullptr;      // x as f32
  size_t groups = 0;            // of a row of x, where some W has blocks
  float* group_sums = nullptr;  // [m][groups]
  WholeRows whole;              // x, where W is multiplied by whole numbers
  uint32_t* h = nullptr;        // a copy of h_size elements per thread, or one if they share it
  float* h_sums = nullptr;      // per thread [kHiddenRows][largest r], of an h of pairs
  size_t h_sums_size = 0;
  size_t most_changes = 0;          // of a branch
  LowRankRows* low_rank = nullptr;  // per thread, of one branch
  ProductScratch product;
  Product* products = nullptr;

  explicit DecodePlan(const LoraLinearForwardArgs& args);
  void Take(Arena& arena, size_t threads);
};

DecodePlan::DecodePlan(const LoraLinearForwardArgs& args)
    : m(static_cast<size_t>(args.x.dim(0))),
      k(static_cast<size_t>(args.x.dim(1))),
      elements(Elements(k, args.x.dtype)),
      pairs(args.x.dtype == DType::kBF16),
      low_pairs(args.table && args.table.dtype == DType::kBF16),
      has_table(args.table) {
  operands = pairs ? Operands::kPairs : Operands::kF32;
  if (MultipliesWholeNumbers(args.branches[0])) {
    whole.rows = m;
    whole.groups = WholeRows::GroupsOf(k);
  } else if (HasExpandedWeight(args)) {
    block_elements = BlockElements(operands, elements);
  }
  const auto has_blocks = [](const LoraBranch& b) { return HasBlocks(b.weight.format); };
  if (whole.groups == 0 && std::ranges::any_of(args.branches, has_blocks))
    groups = k / kGroupValues;
  const auto quantized = [](const LoraBranch& b) { return IsQuantized(b.weight.format); };
  if (whole.groups == 0 && pairs && std::ranges::any_of(args.branches, quantized))
    values_size = m * k;
  shares_h = m > kFewRows;
  most_changes = has_table ? std::max<size_t>(m, 1) : 1;
  for (const LoraBranch& branch : args.branches) {
    DecodeBranch b;
    b.n = static_cast<size_t>(branch.weight.rows);
    b.max_r = MaxRankOf(args, branch);
    b.has_bias = branch.bias.defined;
    b.h = h_size;
    h_size += m * b.max_r;
    // A branch without outputs has no task of its own that could compute its h.
    shares_h = shares_h || (b.n == 0 && b.max_r != 0);
    branches.push_back(b);
  }
  if (low_pairs) h_sums_size = kHiddenRows * static_cast<size_t>(args.table.max_rank);
}

void DecodePlan::Take(Arena& arena, size_t threads) {
  if (pairs) x = arena.Take<uint32_t>(m * elements);
  if (values_size != 0) values = arena.Take<float>(values_size);
  if (groups != 0) group_sums = arena.Take<float>(m * groups);
  if (whole.groups != 0) {
    whole.codes = arena.Take<int8_t>(m * whole.groups * kActivationGroup);
    whole.scales = arena.Take<float>(m * whole.groups);
    whole.sums = arena.Take<int32_t>(2 * m * whole.groups);
  }
  product = ProductScratch::Take(arena, threads, m, true, block_elements);
  products = arena.Take<Product>(branches.size());
  low_rank = arena.Take<LowRankRows>(threads * most_changes);
  for (DecodeBranch& b : branches) {
    b.changes = arena.Take<Change>(most_changes);
    if (has_table) b.factors = arena.Take<const float*>(m);
    if (b.has_bias) b.bias = arena.Take<float>(b.n);
    b.pass = arena.Take<Pass>(1);
  }
  h = arena.Take<uint32_t>((shares_h ? 1 : threads) * h_size);
  if (low_pairs) h_sums = arena.Take<float>(threads * h_sums_size);
}

void FindChanges(const LoraLinearForwardArgs& args, DecodePlan& plan, size_t i) {
  const LoraBranch& branch = args.branches[i];
  DecodeBranch& b = plan.branches[i];
  for (size_t begin = 0, end; begin < plan.m; begin = end) {
    end = EndOfSlot(args, begin);
    Change change{{begin, end}};
    if (branch.up) {
      change.up = branch.up.data;
      change.down = branch.down.data;
      change.r = b.max_r;
      change.scale = branch.scale;
    } else if (args.table) {
      const DeltaEntry& entry = EntryOf(args, i, static_cast<int64_t>(begin));
      change.up = entry.up;
      change.down = entry.down;
      change.r = static_cast<size_t>(entry.rank);
      change.scale = entry.scale;
      std::fill(b.factors + begin, b.factors + end, entry.factor);
    }
    b.changes[b.changes_count++] = change;
  }
}

// Returns the elements of a row of h.
size_t HiddenElements(const DecodePlan& plan, const Change& change) {
  return plan.low_pairs ? CeilDiv(change.r, size_t{2}) : change.r;
}
// Returns where the h [rows][HiddenElements] of a change is, given the h of its branch.
uint32_t* HiddenOf(const DecodeBranch& b, const Change& change, uint32_t* h) {
  return h + change.rows.begin * b.max_r;
}

// h ← scale · x · downᵀ for those of a change's rows that are in `rows`, which are at most
// kHiddenRows. Where h is kept, `keeps` tells whether this call stores it there.
void ComputeHidden(const LoraLinearForwardArgs& args, const DecodePlan& plan, size_t i,
                   const Change& change, Range rows, bool keeps, uint32_t* h, size_t thread) {
  const size_t begin = std::max(rows.begin, change.rows.begin);
  const size_t end = std::min(rows.end, change.rows.end);
  if (begin >= end || change.r == 0) return;
  const size_t count = end - begin, stride = HiddenElements(plan, change);
  const std::byte* const x = RowOf(args.x, begin);
  uint32_t* const to = HiddenOf(plan.branches[i], change, h) + (begin - change.rows.begin) * stride;
  if (plan.low_pairs) {
    float* const sums = plan.h_sums + thread * plan.h_sums_size;
    MultiplyDownPairs(reinterpret_cast<const uint16_t*>(x), count, plan.k, nullptr,
                      static_cast<const uint16_t*>(change.down), change.r, 1, sums);
    ScaleToElements(sums, change.r, count, change.r, change.scale, Operands::kPairs, to, stride);
    return;
  }
  float* const sums = reinterpret_cast<float*>(to);
  const size_t size = count * change.r;
  MultiplyDown(x, plan.pairs, count, plan.k, nullptr, static_cast<const float*>(change.down),
               change.r, 1, sums);
  if (keeps && Keeps(args.h, i)) {
    std::memcpy(args.h[i].as<float>() + begin * change.r, sums, size * sizeof(float));
  }
  for (size_t j = 0; j < size; ++j) sums[j] *= change.scale;
}

void ShareHidden(const LoraLinearForwardArgs& args, const DecodePlan& plan, CpuContext& context) {
  if (plan.h_size == 0) return;
  const size_t groups = CeilDiv(plan.m, kHiddenRows);
  context.ParallelFor(groups * args.branches.size(), [&](size_t task, size_t thread) {
    const size_t i = task / groups, begin = task % groups * kHiddenRows;
    const DecodeBranch& b = plan.branches[i];
    for (const Change& change : std::span(b.changes, b.changes_count)) {
      ComputeHidden(args, plan, i, change, {begin, begin + kHiddenRows}, true, plan.h + b.h,
                    thread);
    }
  });
}

// Multiplies panels of branch i on a thread that has h in `h`.
void MultiplyBranch(const DecodePlan& plan, size_t i, Range panels, uint32_t* h, size_t thread) {
  const DecodeBranch& b = plan.branches[i];
  LowRankRows* const low_rank = plan.low_rank + thread * plan.most_changes;
  for (size_t c = 0; c < b.changes_count; ++c) {
    const Change& change = b.changes[c];
    low_rank[c] = {change.rows.begin,
                   change.rows.end,
                   plan.low_pairs,
                   static_cast<const uint32_t*>(change.up),
                   change.r,
                   HiddenOf(b, change, h),
                   HiddenElements(plan, change)};
  }
  MultiplyRows(plan.products[i], plan.m, panels, {low_rank, b.changes_count},
               plan.product.Of(thread, plan.m));
}

Product ProductOf(const LoraLinearForwardArgs& args, const DecodePlan& plan, size_t i,
                  const uint32_t* x) {
  const DecodeBranch& b = plan.branches[i];
  *b.pass = Pass();
  b.pass->main = {x,
                  plan.elements,
                  PanelsOf(args.branches[i].weight),
                  plan.elements,
                  plan.pairs ? plan.values : args.x.as<float>(),
                  plan.group_sums,
                  plan.whole.groups != 0 ? &plan.whole : nullptr};
  Product product;
  product.operands = plan.operands;
  product.passes = {b.pass, 1};
  product.n = b.n;
  if (const TensorView& factor = args.branches[i].factor) product.factor = factor.as<float>();
  product.row_factors = b.factors;
  product.bias = b.bias;
  product.y = args.y[i].data;
  product.y_is_bf16 = plan.pairs;
  product.ldy = b.n;
  return product;
}

void Decode(const LoraLinearForwardArgs& args, DecodePlan plan, Scratch scratch,
            CpuContext& context) {
  const size_t threads = static_cast<size_t>(context.threads());
  if (plan.m == 0) return;
  Arena arena(scratch);
  plan.Take(arena, threads);
  // x is read in place as 32-bit elements, unless pairs would straddle rows or words.
  const uint32_t* x = args.x.as<uint32_t>();
  if (plan.pairs &&
      (plan.k % 2 != 0 || reinterpret_cast<uintptr_t>(args.x.data) % alignof(uint32_t) != 0)) {
    CopyElements(args.x.data, true, plan.k, plan.m, plan.k, plan.operands, plan.x, plan.elements);
    x = plan.x;
  }
  if (plan.whole.groups != 0) {
    const size_t parts = std::min(plan.m, 4 * threads);
    context.ParallelFor(parts, [&](size_t part, size_t) {
      RoundRows(RowsFrom(args.x, 0), Split(plan.m, parts, part), plan.whole);
    });
  }
  if (plan.values) WidenRows(x, plan.elements, plan.m, plan.k, plan.values);
  SumGroups(x, plan.elements, plan.m, plan.groups, plan.pairs, plan.group_sums);
  size_t panels = 0;
  for (size_t i = 0; i < args.branches.size(); ++i) {
    const TensorView& bias = args.branches[i].bias;
    const DecodeBranch& b = plan.branches[i];
    if (b.bias) ConvertToF32(bias.data, bias.dtype, b.n, b.bias);
    plan.products[i] = ProductOf(args, plan, i, x);
    FindChanges(args, plan, i);
    panels += Panels(b.n, PanelWidth());
  }
  if (plan.shares_h) ShareHidden(args, plan, context);
  // A few tasks per thread even out the time that other processes take, unless each task must
  // compute h.
  const size_t tasks = std::min(panels, plan.shares_h && threads > 1 ? 4 * threads : threads);
  context.ParallelFor(tasks, [&](size_t task, size_t thread) {
    const Range mine = Split(panels, tasks, task);
    size_t first = 0;
    for (size_t i = 0; i < args.branches.size(); ++i) {
      const DecodeBranch& b = plan.branches[i];
      const size_t count = Panels(b.n, PanelWidth());
      const size_t begin = std::max(mine.begin, first), end = std::min(mine.end, first + count);
      if (begin < end) {
        uint32_t* const h = plan.h + (plan.shares_h ? 0 : thread * plan.h_size) + b.h;
        if (!plan.shares_h) {
          for (const Change& change : std::span(b.changes, b.changes_count)) {
            ComputeHidden(args, plan, i, change, {0, plan.m}, begin == first, h, thread);
          }
        }
        MultiplyBranch(plan, i, {begin - first, end - first}, h, thread);
      }
      first += count;
    }
  });
}

}  // namespace

PlannedCall PlanDecode(const LoraLinearForwardArgs& args, int threads) {
  const DecodePlan plan(args);
  Arena arena;
  DecodePlan(plan).Take(arena, static_cast<size_t>(threads));
  return {arena.bytes(), [args, plan](Scratch scratch, Context& context) {
            Decode(args, plan, scratch, static_cast<CpuContext&>(context));
          }};
}

}  // namespace lora::cpu
