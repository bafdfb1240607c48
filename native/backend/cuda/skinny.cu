#include <algorithm>
#include <span>

#include "backend/cuda/device/low_rank_dot.cuh"
#include "backend/cuda/device/skinny.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/skinny.h"
#include "backend/cuda/skinny_plan.h"

namespace lora::cuda {
namespace {

using device::SkinnyForm;

// A tile of up to 8 ranks of one job, whatever the job's form. All tiles of a job share its z.
struct Tile {
  device::SkinnyTile on_device{};
  Dropout dropout;
};
struct Job {
  const void* z = nullptr;
  int64_t pitch = 0, outs = 0, depth = 0;
  std::vector<Tile> tiles;
};
using Batch = std::vector<Job>;  // the jobs of one launch

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

device::StoredDType DTypeOf(DType dtype) {
  return dtype == DType::kF32    ? device::StoredDType::kF32
         : dtype == DType::kBF16 ? device::StoredDType::kBF16
                                 : device::StoredDType::kF16;
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

// Casts that no launch has taken yet.
using Casts = std::span<const FactorCast>;

// Gives a launch, which has `blocks` so far, the first of the casts, and returns its blocks then.
int64_t TakeCasts(Casts& casts, DType dtype, int64_t blocks, int threads, device::FactorCasts& to) {
  to.first_block = blocks;
  to.dtype = DTypeOf(dtype);
  int64_t own = 0;
  for (; !casts.empty() && to.count < device::kFactorCasts; casts = casts.subspan(1)) {
    const FactorCast& cast = casts.front();
    const int64_t runs = cast.rows * CeilDiv(cast.cols, 8);
    if (runs == 0) continue;
    to.cast[to.count++] = {cast.from, cast.to, cast.rows, cast.cols, cast.pitch, own};
    own += CeilDiv(runs, int64_t{threads});
  }
  return blocks + own;
}

// What all launches of a call have in common.
struct Call {
  const char* op;
  DType t_dtype;
  float* partial;
  Context& context;
};

// Puts the tiles of a job on the lists of a launch, of which `tiles` and `masks` are taken.
template <SkinnyForm kForm, class T>
void AddTiles(const std::vector<Tile>& from, device::SkinnyJob<T>& job,
              device::SkinnyParams<kForm, T>& params, int& tiles, int& masks) {
  job.first_tile = tiles;
  job.tiles = static_cast<int>(from.size());
  job.first_mask = masks;
  job.s_aligned = 1;
  for (size_t t = 0; t < from.size(); ++t) {
    const device::SkinnyTile& tile = params.tile[tiles++] = from[t].on_device;
    const Dropout& dropout = from[t].dropout;
    job.mask[t] = -1;
    if (dropout.active()) {
      if (t == 0 || !SameMask(dropout, from[t - 1].dropout)) {
        params.mask[masks++] = MaskOf(dropout);
        ++job.masks;
      }
      job.mask[t] = static_cast<int8_t>(job.masks - 1);
    }
    if (!IsAligned(tile.s) || tile.s_pitch % 4 != 0) job.s_aligned = 0;
  }
}

// Also takes casts.
template <SkinnyForm kForm, class T>
void LaunchSkinny(const Batch& batch, const SkinnyPlan& plan, Casts& casts, const Call& call) {
  using Params = device::SkinnyParams<kForm, T>;
  CudaContext& cuda = static_cast<CudaContext&>(call.context);
  Params params{};
  int tiles = 0, masks = 0, most_tiles = 0, most_masks = 0;
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
    job.partial = call.partial + split.partial;
    job.counters = cuda.counters() + split.first_counter;
    job.splits = static_cast<int>(split.splits);
    job.z_aligned = IsAligned(from.z) && from.pitch * static_cast<int64_t>(sizeof(T)) % 16 == 0;
    AddTiles(from.tiles, job, params, tiles, masks);
    most_tiles = std::max(most_tiles, job.tiles);
    most_masks = std::max(most_masks, job.masks);
  }
  params.jobs = static_cast<int>(batch.size());
  params.dtype = DTypeOf(call.t_dtype);
  params.stage_bytes = Params::kZBytes + Params::S::Bytes(most_tiles);
  const int mask_bytes = most_masks * Params::kMaskWords * 4;
  params.stages =
      SkinnyStages(static_cast<size_t>(params.stage_bytes), static_cast<size_t>(mask_bytes),
                   Params::kMinBlocks, cuda.properties().shared_bytes);
  device::LaunchShape shape;
  shape.grid_x = static_cast<unsigned>(
      TakeCasts(casts, call.t_dtype, plan.blocks, Params::kThreads, params.casts));
  shape.shared_bytes = static_cast<size_t>(params.stages * params.stage_bytes + mask_bytes);
  Launch<device::Skinny<kForm, T>>(call.op, call.context, shape, params);
}

// Runs the batches. Casts that find no room in their launches have launches of their own.
template <SkinnyForm kForm>
void RunBatches(const Batches& batches, const LowRankPlan& low_rank, DType dtype, Casts casts,
                const Call& call) {
  ForFloat(dtype, [&]<class T>() {
    for (size_t i = 0; i < batches.all().size(); ++i)
      LaunchSkinny<kForm, T>(batches.all()[i], low_rank.launches[i], casts, call);
    while (!casts.empty()) LaunchSkinny<kForm, T>({}, {}, casts, call);
  });
}

void* OffsetBytes(void* data, int64_t bytes) {
  return data == nullptr ? nullptr : static_cast<std::byte*>(data) + bytes;
}

int16_t RanksOf(int64_t rank, int64_t first) {
  return static_cast<int16_t>(std::min<int64_t>(8, rank - first));
}

Batches DownBatches(const LowRankDownArgs& args) {
  Batches batches;
  const int64_t t_size = static_cast<int64_t>(SizeOf(args.t_dtype));
  for (const LowRankDownProblem& problem : args.problems) {
    std::vector<Tile> tiles;
    for (const LowRankDownTerm& term : problem.terms) {
      const int64_t pitch = args.by_columns ? term.rank : problem.k;
      for (int64_t first = 0; first < term.rank; first += 8) {
        device::SkinnyTile tile{};
        tile.s = term.small + first * (args.by_columns ? 1 : pitch);
        tile.s_pitch = pitch;
        tile.out = Offset(term.h, first);
        tile.out_row = term.rank;
        tile.out_rank = 1;
        tile.t = OffsetBytes(term.t, first * t_size);
        tile.t_pitch = static_cast<int32_t>(term.t_pitch);
        tile.factor = KeepScale(term.dropout);
        tile.scale = term.scale;
        tile.ranks = RanksOf(term.rank, first);
        tile.t_columns = first + 8 >= term.rank && first % 16 == 0 ? 16 : 8;
        tiles.push_back({tile, term.dropout});
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
      device::SkinnyTile tile{};
      tile.s = gradient.p + first;
      tile.s_pitch = gradient.rank;
      tile.out_row = gradient.by_columns ? gradient.rank : 1;
      tile.out_rank = gradient.by_columns ? 1 : gradient.cols;
      tile.out = Offset(gradient.out, first * tile.out_rank);
      tile.factor = gradient.scale * KeepScale(gradient.dropout);
      tile.ranks = RanksOf(gradient.rank, first);
      tiles.push_back({tile, gradient.dropout});
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

// Also runs the casts.
void Dot(const char* op, const LowRankDownArgs& args, Context& context) {
  ForFloat(args.dtype, [&]<class T>() {
    using Params = device::LowRankDotParams<T>;
    Casts casts = args.casts;
    Params params{};
    params.t_dtype = DTypeOf(args.t_dtype);
    int64_t blocks = 0;
    const auto flush = [&] {
      device::LaunchShape shape;
      shape.grid_x = static_cast<unsigned>(
          TakeCasts(casts, args.t_dtype, blocks, Params::kThreads, params.casts));
      Launch<device::LowRankDot<T>>(op, context, shape, params);
      params.terms = params.casts.count = 0;
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
    do {
      flush();
    } while (!casts.empty());
  });
}

}  // namespace

LowRankPlan PlanLowRankDown(const LowRankDownArgs& args, int multiprocessors) {
  return IsDot(args) ? LowRankPlan() : PlanOf(DownBatches(args), args.dtype, multiprocessors);
}

void LowRankDown(const LowRankDownArgs& args, const LowRankPlan& plan, Scratch scratch,
                 Context& context) {
  constexpr const char* kOp = "low_rank_down";
  if (IsDot(args)) return Dot(kOp, args, context);
  const Batches batches = DownBatches(args);
  const Call call{kOp, args.t_dtype, reinterpret_cast<float*>(scratch.data()), context};
  if (args.by_columns) {
    RunBatches<SkinnyForm::kUp>(batches, plan, args.dtype, args.casts, call);
  } else {
    RunBatches<SkinnyForm::kDown>(batches, plan, args.dtype, args.casts, call);
  }
}

LowRankPlan PlanLowRankGradients(const LowRankGradientsArgs& args, int multiprocessors) {
  return PlanOf(GradientBatches(args), args.dtype, multiprocessors);
}

void LowRankGradients(const LowRankGradientsArgs& args, const LowRankPlan& plan, Scratch scratch,
                      Context& context) {
  RunBatches<SkinnyForm::kGradient>(
      GradientBatches(args), plan, args.dtype, {},
      {"low_rank_gradients", DType::kF32, reinterpret_cast<float*>(scratch.data()), context});
}

}  // namespace lora::cuda
