// y = W·x + bias + scale·A·(B·drop(x)) and its gradients. With more than a few rows:
//   forward   h  = drop(x)·Bᵀ of all branches, from one read of x
//             y  = [x | scale·h]·[W | A]ᵀ
//   backward  u  = g·A
//             dx = [g… | scale·u…]·[W… ; B…], one product for all branches, in which the terms of
//                  B are dropped as x was
//             dA = scale·gᵀ·h and dB = scale·uᵀ·drop(x), together
// So LoRA never touches y or dx in memory, and both are rounded once. The f32 masters are cast to
// operands of tensor cores first. The product may start while h or u are still being computed,
// because only its last k-blocks wait for them.
#include <algorithm>

#include "backend/cuda/device/cast_factors.cuh"
#include "backend/cuda/gemm.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/scratch.h"
#include "backend/cuda/skinny.h"
#include "core/maths/ceil_div.h"

namespace lora::cuda {
namespace {

constexpr const char* kOp = "lora_linear";

// A matrix as an operand of the products.
struct Factor {
  const void* data = nullptr;
  int64_t pitch = 0;
};

// Collects factors that must be cast, and casts them in one launch if they are not too many.
class Casts {
 public:
  // Returns `master` itself where products are of f32, else its 16-bit form in the arena.
  Factor Add(const TensorView& master, DType dtype, ScratchArena& arena) {
    const int64_t rows = master.dim(0), cols = master.dim(1);
    if (dtype == DType::kF32) return {master.data, cols};
    const int64_t pitch = RoundUp(cols, 8);
    void* const to = arena.TakeBytes(static_cast<size_t>(rows * pitch) * SizeOf(dtype));
    jobs_.push_back({Data<const float>(master), to, rows, cols, pitch, 0});
    return {to, pitch};
  }
  void Run(DType dtype, Context& context) const {
    device::CastFactorsParams params{};
    params.bf16 = dtype == DType::kBF16 ? 1 : 0;
    int64_t blocks = 0;
    const auto flush = [&] {
      device::LaunchShape shape;
      shape.grid_x = static_cast<unsigned>(blocks);
      Launch<device::CastFactors>(kOp, context, shape, params);
      params.jobs = 0;
      blocks = 0;
    };
    for (device::CastJob job : jobs_) {
      const int64_t threads = job.rows * CeilDiv(job.cols, 8);
      if (threads == 0) continue;
      if (params.jobs == device::kCastJobs) flush();
      job.first_block = blocks;
      params.job[params.jobs++] = job;
      blocks += CeilDiv(threads, params.kThreads);
    }
    flush();
  }

 private:
  std::vector<device::CastJob> jobs_;
};

// The launches of a forward call and their memory. On an arena without memory it counts the bytes.
struct Forward {
  Casts casts;
  LowRankDownArgs down;
  DecodeArgs decode;  // replaces the products where there are few rows
  std::vector<GemmProblem> products;
  bool few_rows = false;
  Scratch step;
  size_t bytes = 0;

  Forward(const LoraLinearForwardArgs& args, ScratchArena arena, int multiprocessors) {
    const DType dtype = args.x.dtype;
    const int64_t m = args.x.dim(0), k = args.x.dim(1);
    few_rows = m <= kMaxDecodeRows;
    down.dtype = down.t_dtype = dtype;
    down.problems = {{args.x.data, m, k, k, {}}};
    decode.dtype = dtype;
    decode.x = args.x.data;
    decode.m = m;
    decode.k = k;
    for (size_t i = 0; i < args.branches.size(); ++i) {
      const LoraBranch& branch = args.branches[i];
      float* const h = args.h[i] ? Data<float>(args.h[i]) : nullptr;
      if (few_rows) {
        AddDecode(branch, args.y[i], h, arena);
      } else {
        AddProduct(branch, args.x, args.y[i], h, arena);
      }
    }
    // The launch may overlap with the last one of h. Without h it must not, because the launch
    // before it may write x.
    const bool overlaps = !down.problems[0].terms.empty();
    for (GemmProblem& product : products) product.programmatic = overlaps;
    decode.programmatic = overlaps;
    step = arena.TakeRest([&] {
      return std::max(LowRankDownScratchBytes(down, multiprocessors),
                      GemmGroupScratchBytes(products, multiprocessors));
    });
    bytes = arena.used();
  }

 private:
  LowRankDownTerm TermOf(const LoraBranch& branch, float* h) const {
    LowRankDownTerm term;
    term.small = Data<const float>(branch.down);
    term.rank = branch.down.dim(0);
    term.dropout = branch.dropout;
    term.h = h;
    term.scale = branch.scale;
    return term;
  }

  void AddDecode(const LoraBranch& branch, const TensorView& y, float* h, ScratchArena& arena) {
    DecodeBranch to;
    to.w = branch.weight.data;
    to.n = branch.weight.rows;
    to.bias = branch.bias ? branch.bias.data : nullptr;
    to.bias_f32 = branch.bias.dtype == DType::kF32;
    to.y = y.data;
    if (branch.up) {
      to.rank = branch.up.dim(1);
      to.a = Data<const float>(branch.up);
      to.scale = branch.scale;
      if (h == nullptr) h = arena.Take<float>(decode.m * to.rank);
      to.h = h;
      down.problems[0].terms.push_back(TermOf(branch, h));
    }
    decode.branches.push_back(to);
  }

  void AddProduct(const LoraBranch& branch, const TensorView& x, const TensorView& y, float* h,
                  ScratchArena& arena) {
    const int64_t m = x.dim(0), k = x.dim(1);
    GemmProblem product;
    product.m = m;
    product.n = branch.weight.rows;
    product.a_dtype = product.b_dtype = product.c_dtype = x.dtype;
    product.trans_b = true;
    product.segments = {{x.data, branch.weight.data, k, k, k, {}, false}};
    if (branch.up) {
      LowRankDownTerm term = TermOf(branch, h);
      term.t_pitch = PaddedRank(term.rank);
      term.t = arena.TakeBytes(static_cast<size_t>(m * term.t_pitch) * SizeOf(x.dtype));
      down.problems[0].terms.push_back(term);
      const Factor a = casts.Add(branch.up, x.dtype, arena);
      product.segments.push_back({term.t, a.data, term.rank, term.t_pitch, a.pitch, {}, true});
    }
    if (branch.bias) {
      product.bias = branch.bias.data;
      product.bias_dtype = branch.bias.dtype;
    }
    product.c = y.data;
    product.c_pitch = branch.weight.rows;
    products.push_back(product);
  }
};

struct Backward {
  Casts casts;
  LowRankDownArgs up;
  GemmProblem dx;  // of size 0 where it is not wanted
  LowRankGradientsArgs gradients;
  Scratch step;
  size_t bytes = 0;

  Backward(const LoraLinearBackwardArgs& args, ScratchArena arena, int multiprocessors) {
    const DType dtype = args.g[0].dtype;
    const int64_t m = args.g[0].dim(0), in = args.branches[0].weight.cols;
    up.dtype = up.t_dtype = gradients.dtype = dtype;
    up.by_columns = true;
    dx.m = args.dx ? m : 0;
    dx.n = in;
    dx.a_dtype = dx.b_dtype = dx.c_dtype = dtype;
    dx.c = args.dx.data;
    dx.c_pitch = in;
    std::vector<GemmSegment> late;
    std::vector<LowRankGradient> d_up;
    for (size_t i = 0; i < args.branches.size(); ++i) {
      const LoraBranch& branch = args.branches[i];
      const int64_t out = branch.weight.rows;
      const void* const g = args.g[i].data;
      if (args.dx) dx.segments.push_back({g, branch.weight.data, out, out, in, {}, false});
      if (args.d_up[i]) {
        d_up.push_back({g,
                        m,
                        out,
                        out,
                        {},
                        Data<const float>(args.h[i]),
                        branch.up.dim(1),
                        branch.scale,
                        Data<float>(args.d_up[i]),
                        true});
      }
      if (!branch.up || (!args.dx && !args.d_down[i])) continue;
      LowRankDownTerm u;
      u.small = Data<const float>(branch.up);
      u.rank = branch.up.dim(1);
      u.scale = branch.scale;
      if (args.dx) {
        u.t_pitch = PaddedRank(u.rank);
        u.t = arena.TakeBytes(static_cast<size_t>(m * u.t_pitch) * SizeOf(dtype));
        const Factor b = casts.Add(branch.down, dtype, arena);
        late.push_back({u.t, b.data, u.rank, u.t_pitch, b.pitch, branch.dropout, true});
      }
      if (args.d_down[i]) {
        u.h = arena.Take<float>(m * u.rank);
        gradients.gradients.push_back({args.x.data, m, in, in, branch.dropout, u.h, u.rank,
                                       branch.scale, Data<float>(args.d_down[i]), false});
      }
      up.problems.push_back({g, m, out, out, {u}});
    }
    dx.segments.insert(dx.segments.end(), late.begin(), late.end());
    // All dB come first, because they read one x, and then all dA.
    gradients.gradients.insert(gradients.gradients.end(), d_up.begin(), d_up.end());
    dx.programmatic = !late.empty();
    step = arena.TakeRest([&] {
      return std::max({LowRankDownScratchBytes(up, multiprocessors),
                       LowRankGradientsScratchBytes(gradients, multiprocessors),
                       GemmScratchBytes(dx, multiprocessors)});
    });
    bytes = arena.used();
  }
};

}  // namespace

size_t ScratchBytes(const LoraLinearForwardArgs& args, int threads) {
  return Forward(args, {}, threads).bytes;
}

void Run(const LoraLinearForwardArgs& args, Scratch scratch, Context& context) {
  const Forward forward(args, ScratchArena(scratch), context.threads());
  if (args.x.dim(0) == 0) return;
  forward.casts.Run(args.x.dtype, context);
  if (!forward.down.problems[0].terms.empty()) LowRankDown(forward.down, forward.step, context);
  if (forward.few_rows) {
    DecodeLinear(forward.decode, context);
  } else {
    GemmGroup(kOp, forward.products, forward.step, context);
  }
}

size_t ScratchBytes(const LoraLinearBackwardArgs& args, int threads) {
  return Backward(args, {}, threads).bytes;
}

void Run(const LoraLinearBackwardArgs& args, Scratch scratch, Context& context) {
  const Backward backward(args, ScratchArena(scratch), context.threads());
  backward.casts.Run(backward.up.dtype, context);
  if (!backward.up.problems.empty()) LowRankDown(backward.up, backward.step, context);
  Gemm(kOp, backward.dx, backward.step, context);
  if (!backward.gradients.gradients.empty())
    LowRankGradients(backward.gradients, backward.step, context);
}

}  // namespace lora::cuda
