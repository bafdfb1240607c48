#include "backend/cuda/gemm_plan.h"

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "core/maths/ceil_div.h"

namespace lora::cuda {
namespace {

constexpr size_t kMaxSegments = 6;  // of one product in a launch: the order of sums depends on it
constexpr size_t kMaxGroupSegments = 8;  // of all products of a launch: device::kMaxGemmSegments
constexpr size_t kMaxGroup = 4;          // device::kMaxGemmGroup
constexpr int kMaxSplits = 64;
constexpr int64_t kMaxSide = std::numeric_limits<int32_t>::max() - 256;

// Tensor cores take two 16-bit operands of one dtype, of which at most one is transposed. Their
// kernel with dropout takes no transposed operand, because only the gradient of x needs it.
bool OnTensorCores(const GemmProblem& p) {
  if (p.a_dtype != p.b_dtype || p.a_dtype == DType::kF32) return false;
  const bool dropped = std::ranges::any_of(
      p.segments, [](const GemmSegment& segment) { return segment.dropout.active(); });
  return dropped ? !p.trans_a && !p.trans_b : !(p.trans_a && p.trans_b);
}

int TileK(const GemmProblem& p, int tile) { return OnTensorCores(p) ? 32 : tile == 128 ? 8 : 16; }

int64_t Tiles(const GemmProblem& p, int tile) {
  return CeilDiv(p.m, tile) * CeilDiv(p.n, tile) * p.batches;
}

// Returns the blocks of k of segments [begin, end), all of which have some k.
int64_t Blocks(const std::vector<GemmSegment>& segments, size_t begin, size_t end, int tile_k) {
  int64_t blocks = 0;
  for (size_t i = begin; i < end; ++i) blocks += CeilDiv(segments[i].k, tile_k);
  return blocks;
}

std::vector<GemmSegment> NonEmpty(const GemmProblem& p) {
  std::vector<GemmSegment> segments;
  for (const GemmSegment& s : p.segments)
    if (s.k > 0) segments.push_back(s);
  return segments;
}

// Rare operands have no kernel with large tiles: a transposed a, and operands without tensor
// cores that are not f32.
bool HasTile(const GemmProblem& p, int tile) {
  if (tile == 64) return true;
  return OnTensorCores(p) ? !p.trans_a : p.a_dtype == DType::kF32 && p.b_dtype == DType::kF32;
}

// Returns how many multiply-adds per clock a tile's kernel reaches on a multiprocessor. Only the
// ratios of these rates to each other and to the costs below matter.
double Rate(bool tensor_cores, int tile) {
  return tensor_cores ? (tile == 128 ? 900.0 : 550.0) : (tile == 128 ? 60.0 : 45.0);
}

constexpr double kLaunchClocks = 4000;

// Returns the clocks that the busiest multiprocessor takes for `tiles` tiles of
// so many blocks of k.
double Clocks(const GemmProblem& p, int tile, int64_t tiles, int64_t blocks, int multiprocessors) {
  const double turns = static_cast<double>(CeilDiv(tiles, multiprocessors));
  // A block of threads that is alone on its multiprocessor cannot hide its own latencies.
  const double alone = turns == 1 ? 1.3 : 1.0;
  const double fill = 1500;
  const double work = static_cast<double>(blocks * TileK(p, tile)) * tile * tile;
  return kLaunchClocks + turns * (fill + alone * work / Rate(OnTensorCores(p), tile));
}

struct Choice {
  int tile = 64, splits = 1;
  double clocks = std::numeric_limits<double>::infinity();
};

// Chooses for the first group of segments; the other groups use the same tile and splits.
Choice Choose(const GemmProblem& p, int multiprocessors) {
  const std::vector<GemmSegment> segments = NonEmpty(p);
  Choice best;
  for (const int tile : {128, 64}) {
    if (!HasTile(p, tile) || (p.tile != 0 && p.tile != tile)) continue;
    const int tile_k = TileK(p, tile);
    const int64_t blocks = Blocks(segments, 0, std::min(segments.size(), kMaxSegments), tile_k);
    for (int splits = 1; splits <= kMaxSplits; ++splits) {
      const int64_t per_split = std::max<int64_t>(1, CeilDiv(blocks, splits));
      const int64_t tiles = Tiles(p, tile) * splits;
      // Every split must have work, and enough of it to be worth a slab.
      if (splits > 1 && (p.batches > 1 || p.logits || per_split * tile_k < 256 ||
                         CeilDiv(blocks, per_split) != splits || tiles > 4 * multiprocessors)) {
        continue;
      }
      double clocks = Clocks(p, tile, tiles, per_split, multiprocessors);
      if (splits > 1) {
        const double bytes = 8.0 * splits * static_cast<double>(p.m) * static_cast<double>(p.n);
        clocks += kLaunchClocks + bytes / (16.0 * multiprocessors);
      }
      if (clocks < best.clocks) best = {tile, splits, clocks};
    }
  }
  return best;
}

void CheckLogits(const char* op, const GemmProblem& p) {
  const bool plain = !p.factor && !p.bias && !p.addend && p.batches == 1;
  if (p.logits && (!plain || p.a_dtype != DType::kBF16 || p.b_dtype != DType::kBF16 ||
                   p.c_dtype != DType::kBF16 || p.trans_a || !p.trans_b))
    Throw("ERR_UNSUPPORTED", op, "no kernel leaves what a loss needs of this product");
}

void CheckCodes(const char* op, const GemmProblem& p) {
  for (const GemmSegment& s : p.segments) {
    if (s.b_scales == nullptr) continue;
    const bool fits = &s == p.segments.data() && s.k % 64 == 0 && !s.dropout.active();
    if (!fits || !p.codes || p.a_dtype != DType::kBF16 || p.b_dtype != DType::kBF16 || p.trans_a ||
        !p.trans_b || p.batches != 1 || p.logits)
      Throw("ERR_UNSUPPORTED", op, "no kernel reads the codes of this product");
  }
}

bool IsEmpty(const GemmProblem& p) { return p.m == 0 || p.n == 0 || p.batches == 0; }

void Check(const char* op, const GemmProblem& p) {
  CheckLogits(op, p);
  CheckCodes(op, p);
  int64_t k = 0;
  for (const GemmSegment& s : p.segments) k = std::max(k, s.k);
  if (p.m > kMaxSide || p.n > kMaxSide || k > kMaxSide) {
    Throw("ERR_UNSUPPORTED", op, "expected a product of matrices of at most ", kMaxSide,
          " rows and columns but received ", p.m, " by ", k, " times ", k, " by ", p.n);
  }
}

GemmPlan LayOut(const char* op, const GemmProblem& p, int tile, int splits) {
  GemmPlan plan;
  plan.tensor_cores = OnTensorCores(p);
  plan.tile = tile;
  plan.tile_k = TileK(p, tile);
  const std::vector<GemmSegment> segments = NonEmpty(p);
  for (size_t i = 0; i < p.segments.size(); ++i)
    if (p.segments[i].k > 0) plan.segments.push_back(i);
  if (IsEmpty(p)) return plan;
  const size_t groups = std::max<size_t>(1, CeilDiv(segments.size(), kMaxSegments));
  if (groups > 1 && p.batches > 1) {
    Throw("ERR_UNSUPPORTED", op, "no batches of more than ", kMaxSegments, " segments");
  }
  plan.tiles = Tiles(p, tile) / p.batches;
  if (plan.tiles > kMaxSide) {
    Throw("ERR_UNSUPPORTED", op, "the result of ", p.m, " by ", p.n, " has too many tiles");
  }
  plan.slabs = 0;
  for (size_t group = 0; group < groups; ++group) {
    GemmLaunch launch;
    launch.first = group * kMaxSegments;
    launch.count = std::min(segments.size() - launch.first, kMaxSegments);
    launch.blocks =
        static_cast<int>(Blocks(segments, launch.first, launch.first + launch.count, plan.tile_k));
    launch.blocks_per_split = std::max(1, static_cast<int>(CeilDiv(launch.blocks, splits)));
    launch.splits = std::max(1, static_cast<int>(CeilDiv(launch.blocks, launch.blocks_per_split)));
    launch.slab = plan.slabs;
    plan.slabs += launch.splits;
    plan.launches.push_back(launch);
  }
  if (plan.slabs > 1) {
    plan.partial_pitch = CeilDiv(p.n, 4) * 4;
    plan.scratch_bytes = static_cast<size_t>(plan.slabs) * static_cast<size_t>(p.m) *
                         static_cast<size_t>(plan.partial_pitch) * sizeof(float);
  }
  return plan;
}

}  // namespace

GemmPlan PlanGemm(const char* op, const GemmProblem& p, int multiprocessors) {
  Check(op, p);
  const Choice best = IsEmpty(p) ? Choice() : Choose(p, multiprocessors);
  return LayOut(op, p, best.tile, best.splits);
}

GemmGroupPlan PlanGemmGroup(const char* op, const std::vector<GemmProblem>& problems,
                            int multiprocessors) {
  GemmGroupPlan group;
  Choice together;
  double apart = 0;
  size_t members = 0, segments = 0, most = 0;  // most: segments of one product
  for (const GemmProblem& p : problems) {
    Check(op, p);
    if (IsEmpty(p)) continue;
    ++members;
    most = std::max(most, NonEmpty(p).size());
    segments += NonEmpty(p).size();
    apart += Choose(p, multiprocessors).clocks;
  }
  if (members > 1 && members <= kMaxGroup && segments <= kMaxGroupSegments &&
      most <= kMaxSegments) {
    for (const int tile : {128, 64}) {
      if (!HasTile(problems[0], tile)) continue;
      int64_t tiles = 0, blocks = 0;
      for (const GemmProblem& p : problems) {
        const std::vector<GemmSegment> list = NonEmpty(p);
        tiles += Tiles(p, tile);
        blocks = std::max(blocks, Blocks(list, 0, list.size(), TileK(p, tile)));
      }
      if (tiles > kMaxSide) continue;
      const double clocks = Clocks(problems[0], tile, tiles, blocks, multiprocessors);
      if (clocks < together.clocks) together = {tile, 1, clocks};
    }
  }
  group.together = together.clocks < apart;
  for (const GemmProblem& p : problems) {
    group.plans.push_back(group.together ? LayOut(op, p, together.tile, 1)
                                         : PlanGemm(op, p, multiprocessors));
    group.scratch_bytes = std::max(group.scratch_bytes, group.plans.back().scratch_bytes);
  }
  return group;
}

}  // namespace lora::cuda
