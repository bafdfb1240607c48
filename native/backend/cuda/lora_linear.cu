// y = factor ⊙ (W·x + scale·up·(down·drop(x))) + bias and its gradients. With more than a few rows:
//   forward   h  = drop(x)·downᵀ of all branches, from one read of x
//             y  = factor ⊙ ([x | scale·h]·[W | up]ᵀ) + bias
//   backward  u  = g·up
//             dx = [g… | scale·u…]·[W… ; down…], one product for all branches, in which the terms
//                  of down are dropped as x was
//             d_up = scale·gᵀ·h and d_down = scale·uᵀ·drop(x), together
// So LoRA never touches y or dx in memory, and both are rounded once. Before the products,
// quantized weights are expanded, unless few rows read them as they are (skinny.h), or the product
// of y expands codes of 4 bits as it loads them (device/gemm_coded.cuh). Where they are large, they
// take turns in the same scratch, each before its own product, and dx is a sum of products in f32.
// The f32 masters are cast to operands of tensor cores by the launch that computes h or u. The
// product may start before that has ended, because only its last k-blocks wait for it.
#include <algorithm>
#include <utility>

#include "backend/cuda/expand.h"
#include "backend/cuda/gemm_plan.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/lora_linear_table.h"
#include "backend/cuda/scratch.h"
#include "backend/cuda/skinny.h"
#include "core/error.h"
#include "core/maths/ceil_div.h"
#include "core/maths/row_major.h"

namespace lora::cuda {
namespace {

constexpr const char* kOp = "lora_linear";

// Whether the product of y for m rows reads the codes of w and expands them as it loads them.
bool MultipliesCodes(const PackedView& w, int64_t m) {
  return TraitsOf(w.format).codes != nullptr && w.dtype == DType::kBF16 && m <= kMaxCodedRows &&
         w.cols % kBlockValues == 0 && reinterpret_cast<uintptr_t>(w.data) % 16 == 0;
}

// A matrix as an operand of the products.
struct Factor {
  const void* data = nullptr;
  int64_t pitch = 0;
};

// Returns `master` itself where products are of f32, else its 16-bit form in the arena, and adds
// the cast that makes it.
Factor OperandOf(const TensorView& master, DType dtype, ScratchArena& arena,
                 std::vector<FactorCast>& casts) {
  const int64_t rows = master.dim(0), cols = master.dim(1);
  if (dtype == DType::kF32) return {master.data, cols};
  const int64_t pitch = RoundUp(cols, 8);
  void* const to = arena.TakeBytes(static_cast<size_t>(rows * pitch) * SizeOf(dtype));
  casts.push_back({Data<const float>(master), to, rows, cols, pitch});
  return {to, pitch};
}

// The launches of a forward call, planned. What lies in scratch has no address before Place.
class Forward {
 public:
  Forward(const LoraLinearForwardArgs& args, int multiprocessors) {
    const DType dtype = args.x.dtype;
    const int64_t m = args.x.dim(0), k = args.x.dim(1);
    const bool packed = std::ranges::all_of(args.branches, DecodesPacked, &LoraBranch::weight);
    few_rows_ = m <= (packed ? kMaxPackedDecodeRows : kMaxDecodeRows) &&
                args.phase != LinearPhase::kPrefill;
    down_.dtype = down_.t_dtype = dtype;
    down_.problems = {{args.x.data, m, k, k, {}}};
    decode_.dtype = dtype;
    decode_.x = args.x.data;
    decode_.m = m;
    decode_.k = k;
    for (size_t i = 0; i < args.branches.size(); ++i) {
      const LoraBranch& branch = args.branches[i];
      float* const h = args.h[i] ? Data<float>(args.h[i]) : nullptr;
      if (branch.up) {
        adapters_.push_back({i, branch.up, h == nullptr});
        down_.problems[0].terms.push_back(TermOf(branch, h));
      }
      if (few_rows_) {
        weights_.push_back(branch.weight);
        AddDecode(branch, args.y[i], h);
      } else {
        AddProduct(branch, args.x, args.y[i]);
      }
    }
    // The launch may overlap with the last one of h. Without h it must not, because the launch
    // before it may write x. Nor must it overlap with an expansion of what it reads.
    in_turn_ = !few_rows_ && ExpandsInTurn(weights_);
    const bool overlaps = !adapters_.empty() && !in_turn_;
    for (GemmProblem& product : products_) product.programmatic = overlaps;
    decode_.programmatic = overlaps;
    down_plan_ = PlanLowRankDown(down_, multiprocessors);
    products_plan_ = PlanGemmGroup(kOp, products_, multiprocessors);
    step_bytes_ = std::max(down_plan_.scratch_bytes, products_plan_.scratch_bytes);
    scratch_bytes_ = Place(ScratchArena());
  }
  size_t scratch_bytes() const { return scratch_bytes_; }

  void Run(Scratch scratch, Context& context) {
    if (decode_.m == 0) return;
    Place(ScratchArena(scratch));
    if (!in_turn_) expansions_.Run(kOp, context);
    if (!adapters_.empty()) LowRankDown(down_, down_plan_, step_, context);
    if (few_rows_) {
      DecodeLinear(decode_, context);
    } else if (!in_turn_) {
      GemmGroup(kOp, products_, products_plan_, step_, context);
    } else {
      for (size_t i = 0; i < products_.size(); ++i) {
        expansions_.RunOne(kOp, i, context);
        // By the plans of the group, so that sums have the order that they have there.
        Gemm(kOp, products_[i], products_plan_.plans[i], step_, context);
      }
    }
  }

 private:
  // Term number i of down_ belongs to adapters_[i].
  struct Adapter {
    size_t branch;
    TensorView up;
    bool own_h;  // h is not asked for, so it lies in scratch where it is needed
  };

  // Gives everything in scratch its address, and returns the bytes.
  size_t Place(ScratchArena arena) {
    const int64_t m = decode_.m;
    down_.casts.clear();
    expansions_ = in_turn_ ? Expansions(weights_, arena) : Expansions();
    for (size_t i = 0; i < weights_.size(); ++i) {
      if (few_rows_ && decode_.branches[i].packed) continue;
      const void* const w = expansions_.Add(weights_[i], arena);
      (few_rows_ ? decode_.branches[i].w : products_[i].segments[0].b) = w;
    }
    for (size_t i = 0; i < adapters_.size(); ++i) {
      const Adapter& adapter = adapters_[i];
      LowRankDownTerm& term = down_.problems[0].terms[i];
      if (few_rows_) {
        if (adapter.own_h) term.h = arena.Take<float>(m * term.rank);
        decode_.branches[adapter.branch].h = term.h;
        continue;
      }
      term.t = arena.TakeBytes(static_cast<size_t>(m * term.t_pitch) * SizeOf(down_.dtype));
      const Factor a = OperandOf(adapter.up, down_.dtype, arena, down_.casts);
      GemmSegment& low_rank = products_[adapter.branch].segments[1];
      low_rank.a = term.t;
      low_rank.b = a.data;
      low_rank.b_pitch = a.pitch;
    }
    step_ = Scratch(static_cast<std::byte*>(arena.TakeBytes(step_bytes_)), step_bytes_);
    return arena.used();
  }

  LowRankDownTerm TermOf(const LoraBranch& branch, float* h) const {
    LowRankDownTerm term;
    term.small = Data<const float>(branch.down);
    term.rank = branch.down.dim(0);
    term.dropout = branch.dropout;
    term.h = h;
    term.t_pitch = few_rows_ ? 0 : PaddedRank(term.rank);
    term.scale = branch.scale;
    return term;
  }

  void AddDecode(const LoraBranch& branch, const TensorView& y, float* h) {
    DecodeBranch to;
    if (DecodesPacked(branch.weight)) to.packed = branch.weight;
    to.w_dtype = OperandDType(branch.weight);
    to.n = branch.weight.rows;
    if (branch.factor) to.factor = Data<const float>(branch.factor);
    to.bias = branch.bias ? branch.bias.data : nullptr;
    to.bias_f32 = branch.bias.dtype == DType::kF32;
    to.y = y.data;
    if (branch.up) {
      to.rank = branch.up.dim(1);
      to.a = Data<const float>(branch.up);
      to.scale = branch.scale;
      to.h = h;
    }
    decode_.branches.push_back(to);
  }

  void AddProduct(const LoraBranch& branch, const TensorView& x, const TensorView& y) {
    const int64_t k = x.dim(1);
    GemmProblem product;
    product.m = x.dim(0);
    product.n = branch.weight.rows;
    product.a_dtype = product.b_dtype = product.c_dtype = x.dtype;
    product.trans_b = true;
    product.segments = {{x.data, nullptr, k, k, k, {}, false, OperandDType(branch.weight)}};
    PackedView weight = branch.weight;
    const CodeTable* const codes = TraitsOf(weight.format).codes;
    if (MultipliesCodes(weight, product.m) && (codes_ == nullptr || codes_ == codes)) {
      codes_ = codes;  // which a launch has one of
      product.codes = codes->values;
      product.segments[0].b_scales =
          reinterpret_cast<const float*>(static_cast<const std::byte*>(weight.data) +
                                         ScalesAt(weight.format, weight.rows, weight.cols));
      weight.format = WeightFormat::kBF16;  // so that it is not expanded
    }
    weights_.push_back(weight);
    if (branch.up) {
      const int64_t rank = branch.up.dim(1);
      product.segments.push_back({nullptr, nullptr, rank, PaddedRank(rank), 0, {}, true});
    }
    if (branch.factor) product.factor = Data<const float>(branch.factor);
    if (branch.bias) {
      product.bias = branch.bias.data;
      product.bias_dtype = branch.bias.dtype;
    }
    product.c = y.data;
    product.c_pitch = branch.weight.rows;
    products_.push_back(product);
  }

  bool few_rows_ = false, in_turn_ = false;
  const CodeTable* codes_ = nullptr;  // of the weights whose codes are multiplied
  std::vector<PackedView> weights_;
  std::vector<Adapter> adapters_;
  LowRankDownArgs down_;
  DecodeArgs decode_;  // replaces the products where there are few rows
  std::vector<GemmProblem> products_;
  LowRankPlan down_plan_;
  GemmGroupPlan products_plan_;
  size_t step_bytes_ = 0, scratch_bytes_ = 0;
  Expansions expansions_;
  Scratch step_;  // which the launches use one after the other
};

// The launches of a backward call, as Forward.
class Backward {
 public:
  Backward(const LoraLinearBackwardArgs& args, int multiprocessors) {
    const DType dtype = args.g[0].dtype;
    m_ = args.g[0].dim(0);
    const int64_t in = args.branches[0].weight.cols;
    up_.dtype = up_.t_dtype = gradients_.dtype = dtype;
    up_.by_columns = true;
    GemmProblem dx;
    dx.m = args.dx ? m_ : 0;
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
      if (args.dx) {
        weights_.push_back(branch.weight);
        dx.segments.push_back({g, nullptr, out, out, in, {}, false, OperandDType(branch.weight)});
      }
      if (args.d_up[i]) {
        d_up.push_back({g,
                        m_,
                        out,
                        out,
                        {},
                        Data<const float>(args.h[i]),
                        branch.up.dim(1),
                        branch.scale,
                        Data<float>(args.d_up[i]),
                        true});
      }
      if (!branch.up) continue;
      Adapter adapter;
      LowRankDownTerm u;
      u.small = Data<const float>(branch.up);
      u.rank = branch.up.dim(1);
      u.scale = branch.scale;
      if (args.dx) {
        u.t_pitch = PaddedRank(u.rank);
        adapter.down = branch.down;
        adapter.segment = static_cast<int>(late.size());
        late.push_back({nullptr, nullptr, u.rank, u.t_pitch, 0, branch.dropout, true});
      }
      if (IsAt(args.kept_u, i)) u.h = Data<float>(args.kept_u[i]);
      const bool given = IsAt(args.u, i);
      if (args.d_down[i]) {
        const float* const p = given ? Data<const float>(args.u[i]) : u.h;
        if (p == nullptr) adapter.gradient = static_cast<int>(gradients_.gradients.size());
        gradients_.gradients.push_back({args.x.data, m_, in, in, branch.dropout, p, u.rank,
                                        branch.scale, Data<float>(args.d_down[i]), false});
      }
      if (given || (!args.dx && !u.h && adapter.gradient < 0)) continue;
      adapters_.push_back(adapter);
      up_.problems.push_back({g, m_, out, out, {u}});
    }
    in_turn_ = ExpandsInTurn(weights_);
    if (in_turn_) {
      for (const GemmSegment& segment : dx.segments) {
        dx_.push_back(dx);
        dx_.back().segments = {segment};
        dx_.back().c_dtype = DType::kF32;
        dx_.back().addend_pitch = in;
      }
      dx_.back().c_dtype = dtype;  // rounded once, with all terms
    } else {
      dx_.push_back(dx);
    }
    first_late_ = dx_.back().segments.size();
    dx_.back().segments.insert(dx_.back().segments.end(), late.begin(), late.end());
    // All d_down come first, because they read one x, and then all d_up.
    gradients_.gradients.insert(gradients_.gradients.end(), d_up.begin(), d_up.end());
    dx_[0].programmatic = !late.empty() && !in_turn_;
    up_plan_ = PlanLowRankDown(up_, multiprocessors);
    gradients_plan_ = PlanLowRankGradients(gradients_, multiprocessors);
    step_bytes_ = std::max(up_plan_.scratch_bytes, gradients_plan_.scratch_bytes);
    for (const GemmProblem& product : dx_) {
      dx_plans_.push_back(PlanGemm(kOp, product, multiprocessors));
      step_bytes_ = std::max(step_bytes_, dx_plans_.back().scratch_bytes);
    }
    scratch_bytes_ = Place(ScratchArena());
  }
  size_t scratch_bytes() const { return scratch_bytes_; }

  void Run(Scratch scratch, Context& context) {
    Place(ScratchArena(scratch));
    if (!in_turn_) expansions_.Run(kOp, context);
    if (!up_.problems.empty()) LowRankDown(up_, up_plan_, step_, context);
    for (size_t i = 0; i < dx_.size(); ++i) {
      if (in_turn_) expansions_.RunOne(kOp, i, context);
      Gemm(kOp, dx_[i], dx_plans_[i], step_, context);
    }
    if (!gradients_.gradients.empty())
      LowRankGradients(gradients_, gradients_plan_, step_, context);
  }

 private:
  // Problem number i of up_ belongs to adapters_[i].
  struct Adapter {
    TensorView down;
    int segment = -1;   // of the late segments of dx; -1 where dx is not wanted
    int gradient = -1;  // of gradients_, the d_down whose u lies in scratch; -1 where there is none
  };

  size_t Place(ScratchArena arena) {
    up_.casts.clear();
    expansions_ = in_turn_ ? Expansions(weights_, arena) : Expansions();
    for (size_t i = 0; i < weights_.size(); ++i) {
      GemmSegment& segment = in_turn_ ? dx_[i].segments[0] : dx_[0].segments[i];
      segment.b = expansions_.Add(weights_[i], arena);
    }
    if (in_turn_) PlaceSum(arena);
    for (size_t i = 0; i < adapters_.size(); ++i) {
      const Adapter& adapter = adapters_[i];
      LowRankDownTerm& u = up_.problems[i].terms[0];
      if (adapter.segment >= 0) {
        u.t = arena.TakeBytes(static_cast<size_t>(m_ * u.t_pitch) * SizeOf(up_.dtype));
        const Factor b = OperandOf(adapter.down, up_.dtype, arena, up_.casts);
        GemmSegment& low_rank =
            dx_.back().segments[first_late_ + static_cast<size_t>(adapter.segment)];
        low_rank.a = u.t;
        low_rank.b = b.data;
        low_rank.b_pitch = b.pitch;
      }
      if (adapter.gradient >= 0) {
        u.h = arena.Take<float>(m_ * u.rank);
        gradients_.gradients[static_cast<size_t>(adapter.gradient)].p = u.h;
      }
    }
    step_ = Scratch(static_cast<std::byte*>(arena.TakeBytes(step_bytes_)), step_bytes_);
    return arena.used();
  }

  // Gives the terms of dx the place of their sum: dx itself where it is of f32.
  void PlaceSum(ScratchArena& arena) {
    const GemmProblem& last = dx_.back();
    float* const sum = last.c_dtype == DType::kF32 ? static_cast<float*>(last.c)
                                                   : arena.Take<float>(last.m * last.n);
    for (size_t i = 0; i < dx_.size(); ++i) {
      if (i > 0) dx_[i].addend = sum;
      if (i + 1 < dx_.size()) dx_[i].c = sum;
    }
  }

  int64_t m_ = 0;
  bool in_turn_ = false;
  std::vector<PackedView> weights_;  // of the first segments of dx
  std::vector<Adapter> adapters_;
  LowRankDownArgs up_;
  // The terms of dx, in the order of the weights, or all in one; of size 0 where it is not wanted.
  std::vector<GemmProblem> dx_;
  size_t first_late_ = 0;
  LowRankGradientsArgs gradients_;
  LowRankPlan up_plan_, gradients_plan_;
  std::vector<GemmPlan> dx_plans_;
  size_t step_bytes_ = 0, scratch_bytes_ = 0;
  Expansions expansions_;
  Scratch step_;
};

template <class Launches>
PlannedCall Planned(Launches launches) {
  const size_t bytes = launches.scratch_bytes();
  return {bytes, [launches = std::move(launches)](Scratch scratch, Context& context) mutable {
            launches.Run(scratch, context);
          }};
}

}  // namespace

PlannedCall PlanCall(const LoraLinearForwardArgs& args, int threads) {
  for (const LoraBranch& branch : args.branches) {
    if (branch.activations != Activations::kExact)
      Throw("ERR_UNSUPPORTED", "lora_linear", "a GPU multiplies exact activations alone");
  }
  if (args.table) return PlanTableCall(args);
  return Planned(Forward(args, threads));
}

PlannedCall PlanCall(const LoraLinearBackwardArgs& args, int threads) {
  return Planned(Backward(args, threads));
}

template PlannedCall Plan(const LoraLinearForwardArgs&, int);
template PlannedCall Plan(const LoraLinearBackwardArgs&, int);
}  // namespace lora::cuda
