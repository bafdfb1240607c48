// The decode step of lora_linear: y = x·Wᵀ + bias + scale·h·Aᵀ with h = x·Bᵀ, for rows of x that
// belong to different sequences. x is read in place. With few rows every thread computes h itself;
// otherwise the threads share that work. Then each streams its share of W once for all rows.
#include <algorithm>
#include <cstring>

#include "backend/cpu/arena.h"
#include "backend/cpu/convert.h"
#include "backend/cpu/lora_kernels.h"
#include "backend/cpu/lora_linear.h"
#include "backend/cpu/pack.h"
#include "backend/cpu/panels.h"

namespace lora::cpu {
namespace {

// Rows whose h a task computes where the threads share that work.
constexpr size_t kHiddenRows = 4;

struct DecodeBranch {
  size_t n = 0, r = 0;    // r 0: no LoRA
  size_t h = 0;           // where its h [m, r] begins in a copy
  float* bias = nullptr;  // [n] f32, or null
  Pass* pass = nullptr;
};

// The sizes of a call and, with an arena that has memory, the addresses of everything in scratch.
struct DecodePlan {
  size_t m = 0, k = 0, elements = 0, h_size = 0;
  bool pairs = false, shares_h = false;
  uint32_t* x = nullptr;  // [m][elements], where x cannot be read in place
  float* h = nullptr;     // a copy of h_size floats per thread, or one if they share it
  ProductScratch product;
  DecodeBranch* branches = nullptr;
  Product* products = nullptr;
};

DecodePlan MakePlan(Arena& arena, const LoraLinearForwardArgs& args, size_t threads) {
  DecodePlan plan;
  const size_t count = args.branches.size();
  plan.m = static_cast<size_t>(args.x.dim(0));
  plan.k = static_cast<size_t>(args.x.dim(1));
  plan.pairs = args.x.dtype == DType::kBF16;
  plan.elements = Elements(plan.k, args.x.dtype);
  if (plan.pairs) plan.x = arena.Take<uint32_t>(plan.m * plan.elements);
  plan.product = ProductScratch::Take(arena, threads, plan.m, true, HasExpandedWeight(args));
  plan.branches = arena.Take<DecodeBranch>(count);
  plan.products = arena.Take<Product>(count);
  plan.shares_h = plan.m > kFewRows;
  for (size_t i = 0; i < count; ++i) {
    const LoraBranch& branch = args.branches[i];
    DecodeBranch b;
    b.n = static_cast<size_t>(branch.weight.rows);
    b.r = branch.up ? static_cast<size_t>(branch.up.dim(1)) : 0;
    b.h = plan.h_size;
    if (branch.bias) b.bias = arena.Take<float>(b.n);
    b.pass = arena.Take<Pass>(1);
    plan.h_size += plan.m * b.r;
    // A branch without outputs has no task of its own that could compute its h.
    plan.shares_h = plan.shares_h || (b.n == 0 && b.r != 0);
    if (plan.branches) plan.branches[i] = b;
  }
  plan.h = arena.Take<float>((plan.shares_h ? 1 : threads) * plan.h_size);
  return plan;
}

// h ← scale · x · Bᵀ for rows of branch i, whose h [m, r] is given. Where h is kept, `keeps` tells
// whether this call stores it there.
void ComputeHidden(const LoraLinearForwardArgs& args, const DecodePlan& plan, size_t i, Range rows,
                   bool keeps, float* h) {
  const LoraBranch& branch = args.branches[i];
  const size_t r = plan.branches[i].r, count = (rows.end - rows.begin) * r;
  float* const to = h + rows.begin * r;
  MultiplyDown(RowOf(args.x, rows.begin), plan.pairs, rows.end - rows.begin, plan.k, nullptr,
               branch.down.as<float>(), r, 1, to);
  if (keeps && Keeps(args.h, i)) {
    std::memcpy(args.h[i].as<float>() + rows.begin * r, to, count * sizeof(float));
  }
  for (size_t j = 0; j < count; ++j) to[j] *= branch.scale;
}

void ShareHidden(const LoraLinearForwardArgs& args, const DecodePlan& plan, CpuContext& context) {
  if (plan.h_size == 0) return;
  const size_t groups = CeilDiv(plan.m, kHiddenRows);
  context.ParallelFor(groups * args.branches.size(), [&](size_t task, size_t) {
    const size_t i = task / groups, begin = task % groups * kHiddenRows;
    const DecodeBranch& b = plan.branches[i];
    if (b.r == 0) return;
    ComputeHidden(args, plan, i, {begin, std::min(begin + kHiddenRows, plan.m)}, true,
                  plan.h + b.h);
  });
}

Product ProductOf(const LoraLinearForwardArgs& args, const DecodePlan& plan, size_t i,
                  const uint32_t* x) {
  const DecodeBranch& b = plan.branches[i];
  *b.pass = Pass();
  b.pass->main = {x, plan.elements, PanelsOf(args.branches[i].weight), plan.elements};
  Product product;
  product.pairs = plan.pairs;
  product.passes = {b.pass, 1};
  product.n = b.n;
  product.bias = b.bias;
  product.y = args.y[i].data;
  product.y_is_bf16 = plan.pairs;
  product.ldy = b.n;
  return product;
}

}  // namespace

size_t DecodeScratchBytes(const LoraLinearForwardArgs& args, int threads) {
  Arena arena;
  MakePlan(arena, args, static_cast<size_t>(threads));
  return arena.bytes();
}

void Decode(const LoraLinearForwardArgs& args, Scratch scratch, CpuContext& context) {
  const size_t threads = static_cast<size_t>(context.threads());
  Arena arena(scratch);
  const DecodePlan plan = MakePlan(arena, args, threads);
  if (plan.m == 0) return;
  // x is read in place as 32-bit elements, unless pairs would straddle rows or words.
  const uint32_t* x = args.x.as<uint32_t>();
  if (plan.pairs &&
      (plan.k % 2 != 0 || reinterpret_cast<uintptr_t>(args.x.data) % alignof(uint32_t) != 0)) {
    CopyElements(args.x.data, true, plan.k, plan.m, plan.k, true, plan.x, plan.elements);
    x = plan.x;
  }
  size_t panels = 0;
  for (size_t i = 0; i < args.branches.size(); ++i) {
    const TensorView& bias = args.branches[i].bias;
    const DecodeBranch& b = plan.branches[i];
    if (b.bias) ConvertToF32(bias.data, bias.dtype, b.n, b.bias);
    plan.products[i] = ProductOf(args, plan, i, x);
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
        float* const h = plan.h + (plan.shares_h ? 0 : thread * plan.h_size) + b.h;
        if (b.r != 0 && !plan.shares_h) {
          ComputeHidden(args, plan, i, {0, plan.m}, begin == first, h);
        }
        const LowRankRows low{0, plan.m, args.branches[i].up.as<float>(), b.r, h, b.r};
        MultiplyRows(plan.products[i], plan.m, {begin - first, end - first}, {&low, 1},
                     plan.product.Of(thread, plan.m));
      }
      first += count;
    }
  });
}

}  // namespace lora::cpu
