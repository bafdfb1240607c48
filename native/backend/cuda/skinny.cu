#include <algorithm>
#include <span>

#include "backend/cuda/device/decode.cuh"
#include "backend/cuda/device/decode_f32.cuh"
#include "backend/cuda/device/skinny.cuh"
#include "backend/cuda/device/skinny_finish.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/scaled.h"
#include "backend/cuda/skinny.h"
#include "backend/cuda/skinny_plan.h"

namespace lora::cuda {
namespace {

using device::SkinnyForm;

// A tile of up to 8 ranks of one job, whatever the job's form. All tiles of a job share its z.
struct Tile {
  const float* s = nullptr;
  int64_t pitch = 0;
  int64_t first = 0, ranks = 0;  // of the adapter's rank
  Dropout dropout;
  device::SkinnyOutput output{};  // without partial, outs, first_block, splits, width
};
struct Job {
  const void* z = nullptr;
  int64_t pitch = 0, outs = 0, depth = 0;
  std::vector<Tile> tiles;
};
using Batch = std::vector<Job>;  // the jobs of one pair of launches

bool SameMask(const Dropout& a, const Dropout& b) {
  if (!a.active() || !b.active()) return a.active() == b.active();
  return a.p == b.p && a.seed == b.seed && a.layer == b.layer && a.forward == b.forward;
}

device::SkinnyMask MaskOf(const Dropout& dropout) {
  return {dropout.seed, dropout.layer, dropout.forward, DropoutThreshold(dropout.p), 0};
}
float KeepScale(const Dropout& dropout) {
  return dropout.active() ? DropoutScale(DropoutThreshold(dropout.p)) : 1.0f;
}

device::SkinnyDType DTypeOf(DType dtype) {
  return dtype == DType::kF32    ? device::SkinnyDType::kF32
         : dtype == DType::kBF16 ? device::SkinnyDType::kBF16
                                 : device::SkinnyDType::kF16;
}

bool IsAligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Adds jobs to batches, and opens as few batches as their limits allow.
class Batches {
 public:
  void Add(const void* z, int64_t pitch, int64_t outs, int64_t depth,
           const std::vector<Tile>& tiles) {
    for (size_t first = 0; first < tiles.size();) {
      Job* job = JobFor(z, pitch, outs, depth);
      const size_t room = std::min<size_t>(device::kSkinnyTiles - job->tiles.size(),
                                           device::kSkinnyOutputs - outputs_);
      const size_t count = std::min(room, tiles.size() - first);
      job->tiles.insert(job->tiles.end(), tiles.begin() + static_cast<ptrdiff_t>(first),
                        tiles.begin() + static_cast<ptrdiff_t>(first + count));
      first += count;
      outputs_ += count;
    }
  }
  const std::vector<Batch>& all() const { return batches_; }

 private:
  // Returns the last job where it has the same z and room, or a new job.
  Job* JobFor(const void* z, int64_t pitch, int64_t outs, int64_t depth) {
    if (batches_.empty() || outputs_ == device::kSkinnyOutputs) StartBatch();
    if (!batches_.back().empty()) {
      Job& last = batches_.back().back();
      if (last.z == z && last.pitch == pitch && last.outs == outs && last.depth == depth &&
          last.tiles.size() < device::kSkinnyTiles)
        return &last;
    }
    if (batches_.back().size() == device::kSkinnyJobs) StartBatch();
    batches_.back().push_back({z, pitch, outs, depth, {}});
    return &batches_.back().back();
  }
  void StartBatch() {
    batches_.emplace_back();
    outputs_ = 0;
  }

  std::vector<Batch> batches_;
  size_t outputs_ = 0;  // of the last batch
};

SkinnyPlan PlanOf(const Batch& batch, DType dtype, int multiprocessors) {
  std::vector<SkinnyShape> shapes;
  for (const Job& job : batch)
    shapes.push_back({job.outs, job.depth, static_cast<int>(job.tiles.size())});
  return PlanSkinny(shapes, 128 / static_cast<int64_t>(SizeOf(dtype)), multiprocessors);
}

LowRankPlan PlanOf(const Batches& batches, DType dtype, int multiprocessors) {
  LowRankPlan plan;
  for (const Batch& batch : batches.all()) {
    plan.launches.push_back(PlanOf(batch, dtype, multiprocessors));
    plan.scratch_bytes =
        std::max(plan.scratch_bytes, plan.launches.back().partial_floats * sizeof(float));
  }
  return plan;
}

template <SkinnyForm kForm, class T>
void LaunchSkinny(const char* op, const Batch& batch, const SkinnyPlan& plan, float* partial,
                  Context& context) {
  using Params = device::SkinnyParams<kForm, T>;
  Params params{};
  int most_tiles = 0, most_masks = 0;
  for (size_t i = 0; i < batch.size(); ++i) {
    const Job& from = batch[i];
    const SkinnySplit& split = plan.jobs[i];
    device::SkinnyJob<T>& job = params.job[i];
    job.z = static_cast<const T*>(from.z);
    job.pitch = from.pitch;
    job.outs = from.outs;
    job.depth = from.depth;
    job.chunk = split.chunk;
    job.first_block = split.first_block;
    job.partial = partial + split.partial;
    job.tiles = static_cast<int>(from.tiles.size());
    job.z_aligned = IsAligned(from.z) && from.pitch * static_cast<int64_t>(sizeof(T)) % 16 == 0;
    job.s_aligned = 1;
    for (size_t t = 0; t < from.tiles.size(); ++t) {
      const Tile& tile = from.tiles[t];
      int mask = -1;
      if (tile.dropout.active()) {
        if (t == 0 || !SameMask(tile.dropout, from.tiles[t - 1].dropout))
          job.mask[job.masks++] = MaskOf(tile.dropout);
        mask = job.masks - 1;
      }
      job.tile[t] = {tile.s, tile.pitch, static_cast<int>(tile.ranks), mask};
      if (!IsAligned(tile.s) || tile.pitch % 4 != 0) job.s_aligned = 0;
    }
    most_tiles = std::max(most_tiles, job.tiles);
    most_masks = std::max(most_masks, job.masks);
  }
  params.jobs = static_cast<int>(batch.size());
  params.stage_bytes = Params::kZBytes + Params::S::Bytes(most_tiles);
  const int mask_bytes = most_masks * Params::kMaskWords * 4;
  params.stages = SkinnyStages(static_cast<size_t>(params.stage_bytes),
                               static_cast<size_t>(mask_bytes), Params::kMinBlocks,
                               static_cast<CudaContext&>(context).properties().shared_bytes);
  device::LaunchShape shape;
  shape.grid_x = static_cast<unsigned>(plan.blocks);
  shape.shared_bytes = static_cast<size_t>(params.stages * params.stage_bytes + mask_bytes);
  Launch<device::Skinny<kForm, T>>(op, context, shape, params);
}

using Casts = std::span<const FactorCast>;

// Adds up to kSkinnyCasts casts to a launch of `blocks` so far, and returns the blocks with them.
int64_t AddCasts(Casts casts, int64_t blocks, device::SkinnyFinishParams& params) {
  for (const FactorCast& cast : casts) {
    const int64_t runs = cast.rows * CeilDiv(cast.cols, 8);
    if (runs == 0) continue;
    params.cast[params.casts++] = {cast.from, cast.to, cast.rows, cast.cols, cast.pitch, blocks};
    blocks += CeilDiv(runs, int64_t{params.kThreads});
  }
  return blocks;
}

// Casts all but the last `keep`, in launches of their own, and returns those.
Casts CastAllBut(size_t keep, const char* op, Casts casts, DType dtype, Context& context) {
  while (casts.size() > keep) {
    const size_t count = std::min<size_t>(casts.size() - keep, device::kSkinnyCasts);
    device::SkinnyFinishParams params{};
    params.t_dtype = DTypeOf(dtype);
    device::LaunchShape shape;
    shape.grid_x = static_cast<unsigned>(AddCasts(casts.first(count), 0, params));
    Launch<device::SkinnyFinish>(op, context, shape, params);
    casts = casts.subspan(count);
  }
  return casts;
}

void LaunchFinish(const char* op, const Batch& batch, const SkinnyPlan& plan, const float* partial,
                  DType t_dtype, Casts casts, Context& context) {
  using Params = device::SkinnyFinishParams;
  Params params{};
  params.t_dtype = DTypeOf(t_dtype);
  int64_t blocks = 0;
  for (size_t i = 0; i < batch.size(); ++i) {
    const Job& job = batch[i];
    if (job.outs == 0) continue;
    for (size_t t = 0; t < job.tiles.size(); ++t) {
      device::SkinnyOutput& output = params.output[params.outputs++];
      output = job.tiles[t].output;
      output.partial = partial + plan.jobs[i].partial + t * 8;
      output.outs = job.outs;
      output.first_block = blocks;
      output.splits = static_cast<int>(plan.jobs[i].splits);
      output.width = static_cast<int>(job.tiles.size()) * 8;
      blocks += (job.outs + Params::kThreads - 1) / Params::kThreads;
    }
  }
  device::LaunchShape shape;
  shape.grid_x = static_cast<unsigned>(AddCasts(casts, blocks, params));
  Launch<device::SkinnyFinish>(op, context, shape, params);
}

template <SkinnyForm kForm>
void RunBatches(const char* op, const Batches& batches, const LowRankPlan& low_rank, DType dtype,
                DType t_dtype, Casts casts, Scratch scratch, Context& context) {
  float* const partial = reinterpret_cast<float*>(scratch.data());
  const size_t room = batches.all().empty() ? 0 : size_t{device::kSkinnyCasts};
  casts = CastAllBut(room, op, casts, t_dtype, context);
  for (size_t i = 0; i < batches.all().size(); ++i) {
    const Batch& batch = batches.all()[i];
    const SkinnyPlan& plan = low_rank.launches[i];
    ForFloat(dtype, [&]<class T>() {
      if (plan.blocks > 0) LaunchSkinny<kForm, T>(op, batch, plan, partial, context);
    });
    LaunchFinish(op, batch, plan, partial, t_dtype, casts, context);
    casts = {};
  }
}

template <class T>
T* Offset(T* data, int64_t elements) {
  return data == nullptr ? nullptr : data + elements;
}
void* OffsetBytes(void* data, int64_t bytes) {
  return data == nullptr ? nullptr : static_cast<std::byte*>(data) + bytes;
}

Batches DownBatches(const LowRankDownArgs& args) {
  Batches batches;
  const int64_t t_size = static_cast<int64_t>(SizeOf(args.t_dtype));
  for (const LowRankDownProblem& problem : args.problems) {
    std::vector<Tile> tiles;
    for (const LowRankDownTerm& term : problem.terms) {
      const int64_t pitch = args.by_columns ? term.rank : problem.k;
      for (int64_t first = 0; first < term.rank; first += 8) {
        Tile tile;
        tile.s = term.small + first * (args.by_columns ? 1 : pitch);
        tile.pitch = pitch;
        tile.ranks = std::min<int64_t>(8, term.rank - first);
        tile.dropout = term.dropout;
        tile.output.out = Offset(term.h, first);
        tile.output.out_row = term.rank;
        tile.output.out_rank = 1;
        tile.output.t = OffsetBytes(term.t, first * t_size);
        tile.output.t_pitch = term.t_pitch;
        tile.output.factor = KeepScale(term.dropout);
        tile.output.scale = term.scale;
        tile.output.ranks = static_cast<int>(tile.ranks);
        tile.output.t_columns = first + 8 >= term.rank && first % 16 == 0 ? 16 : 8;
        tiles.push_back(tile);
      }
    }
    batches.Add(problem.z, problem.pitch, problem.m, problem.k, tiles);
  }
  return batches;
}

Batches GradientBatches(const LowRankGradientsArgs& args) {
  Batches batches;
  for (const LowRankGradient& gradient : args.gradients) {
    std::vector<Tile> tiles;
    for (int64_t first = 0; first < gradient.rank; first += 8) {
      Tile tile;
      tile.s = gradient.p + first;
      tile.pitch = gradient.rank;
      tile.ranks = std::min<int64_t>(8, gradient.rank - first);
      tile.dropout = gradient.dropout;
      const int64_t row = gradient.by_columns ? gradient.rank : 1;
      const int64_t rank = gradient.by_columns ? 1 : gradient.cols;
      tile.output.out = Offset(gradient.out, first * rank);
      tile.output.out_row = row;
      tile.output.out_rank = rank;
      tile.output.factor = gradient.scale * KeepScale(gradient.dropout);
      tile.output.ranks = static_cast<int>(tile.ranks);
      tiles.push_back(tile);
    }
    batches.Add(gradient.z, gradient.pitch, gradient.cols, gradient.m, tiles);
  }
  return batches;
}

// Tells whether there are so few rows that a block per element of h is enough.
bool IsDot(const LowRankDownArgs& args) {
  return !args.by_columns &&
         std::ranges::all_of(args.problems, [](const LowRankDownProblem& problem) {
           return problem.m <= kMaxDecodeRows;
         });
}

void Dot(const LowRankDownArgs& args, Context& context) {
  ForFloat(args.dtype, [&]<class T>() {
    using Params = device::LowRankDotParams<T>;
    Params params{};
    params.t_dtype = DTypeOf(args.t_dtype);
    int64_t blocks = 0;
    const auto flush = [&] {
      device::LaunchShape shape;
      shape.grid_x = static_cast<unsigned>(blocks);
      Launch<device::LowRankDot<T>>("low_rank_down", context, shape, params);
      params.terms = 0;
      blocks = 0;
    };
    for (const LowRankDownProblem& problem : args.problems) {
      for (const LowRankDownTerm& term : problem.terms) {
        if (problem.m == 0) continue;
        if (params.terms == device::kDotTerms) flush();
        device::DotTerm& dot = params.term[params.terms++];
        dot = {};
        dot.x = problem.z;
        dot.x_pitch = problem.pitch;
        dot.k = problem.k;
        dot.b = term.small;
        dot.h = term.h;
        dot.t = term.t;
        dot.t_pitch = term.t_pitch;
        dot.first_block = blocks;
        dot.m = static_cast<int>(problem.m);
        dot.rank = static_cast<int>(term.rank);
        dot.columns = static_cast<int>(term.t == nullptr ? term.rank : PaddedRank(term.rank));
        dot.factor = KeepScale(term.dropout);
        dot.scale = term.scale;
        dot.masked = term.dropout.active();
        if (dot.masked) dot.mask = MaskOf(term.dropout);
        blocks += problem.m * dot.columns;
      }
    }
    flush();
  });
}

}  // namespace

LowRankPlan PlanLowRankDown(const LowRankDownArgs& args, int multiprocessors) {
  return IsDot(args) ? LowRankPlan() : PlanOf(DownBatches(args), args.dtype, multiprocessors);
}

void LowRankDown(const LowRankDownArgs& args, const LowRankPlan& plan, Scratch scratch,
                 Context& context) {
  constexpr const char* kOp = "low_rank_down";
  if (IsDot(args)) {
    CastAllBut(0, kOp, args.casts, args.t_dtype, context);
    return Dot(args, context);
  }
  const Batches batches = DownBatches(args);
  if (args.by_columns) {
    RunBatches<SkinnyForm::kUp>(kOp, batches, plan, args.dtype, args.t_dtype, args.casts, scratch,
                                context);
  } else {
    RunBatches<SkinnyForm::kDown>(kOp, batches, plan, args.dtype, args.t_dtype, args.casts, scratch,
                                  context);
  }
}

LowRankPlan PlanLowRankGradients(const LowRankGradientsArgs& args, int multiprocessors) {
  return PlanOf(GradientBatches(args), args.dtype, multiprocessors);
}

void LowRankGradients(const LowRankGradientsArgs& args, const LowRankPlan& plan, Scratch scratch,
                      Context& context) {
  RunBatches<SkinnyForm::kGradient>("low_rank_gradients", GradientBatches(args), plan, args.dtype,
                                    DType::kF32, {}, scratch, context);
}

namespace {

// Rows of x of one launch.
struct DecodeRows {
  int64_t first, count;
};

// Fills one launch after the other with the branches that kKernel reads: those whose formats have
// scales, or the others. Params belong to kKernel.
template <auto kKernel, class Params, class T>
void LaunchDecode(const DecodeArgs& args, DecodeRows rows, Context& context) {
  constexpr bool kScaled = requires(Params params) { params.scaled; };
  Params params{};
  params.x = static_cast<const T*>(args.x) + rows.first * args.k;
  params.m = static_cast<int>(rows.count);
  params.k = args.k;
  params.slots = Offset(args.slots, rows.first);
  params.sites = args.sites;
  int64_t blocks = 0;
  const auto flush = [&] {
    device::LaunchShape shape;
    shape.grid_x = static_cast<unsigned>(blocks);
    shape.programmatic = args.programmatic;
    Launch<kKernel>("decode", context, shape, params);
    params.branches = 0;
    blocks = 0;
  };
  for (const DecodeBranch& branch : args.branches) {
    if (branch.n == 0 || static_cast<bool>(branch.scaled) != kScaled) continue;
    if (params.branches == device::kDecodeBranches) flush();
    if constexpr (kScaled) params.scaled[params.branches] = ScaledOf(branch.scaled);
    params.branch[params.branches++] = {branch.w,
                                        branch.n,
                                        branch.factor,
                                        branch.bias,
                                        branch.a,
                                        Offset(branch.h, rows.first * branch.rank),
                                        static_cast<T*>(branch.y) + rows.first * branch.n,
                                        branch.site,
                                        blocks,
                                        static_cast<int>(branch.rank),
                                        branch.scale,
                                        branch.bias_f32 ? 1 : 0,
                                        branch.w_dtype,
                                        {}};
    blocks += (branch.n + Params::kRows - 1) / Params::kRows;
  }
  flush();
}

template <class T, int kXTiles, bool kScaled>
void LaunchDecodeMma(const DecodeArgs& args, DecodeRows rows, Context& context) {
  using Params = device::DecodeParams<T, kXTiles, kScaled>;
  LaunchDecode<device::Decode<T, kXTiles, kScaled>, Params, T>(args, rows, context);
}

template <class T>
void DecodeSomeRows(const DecodeArgs& args, DecodeRows rows, Context& context) {
  if constexpr (std::is_same_v<T, float>) {
    if (rows.count == 1) {
      LaunchDecode<device::DecodeF32<1>, device::DecodeF32Params<1>, T>(args, rows, context);
    } else {
      LaunchDecode<device::DecodeF32<16>, device::DecodeF32Params<16>, T>(args, rows, context);
    }
  } else {
    rows.count <= 8 ? LaunchDecodeMma<T, 1, false>(args, rows, context)
                    : LaunchDecodeMma<T, 2, false>(args, rows, context);
  }
  // One form for any number of rows: every kernel makes the binary larger.
  if constexpr (std::is_same_v<T, device::BF16>) LaunchDecodeMma<T, 2, true>(args, rows, context);
}

}  // namespace

void DecodeLinear(const DecodeArgs& args, Context& context) {
  ForFloat(args.dtype, [&]<class T>() {
    for (int64_t first = 0; first < args.m; first += kMaxDecodeRows)
      DecodeSomeRows<T>(args, {first, std::min(kMaxDecodeRows, args.m - first)}, context);
  });
}

}  // namespace lora::cuda
