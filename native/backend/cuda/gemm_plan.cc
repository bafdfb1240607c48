#include "backend/cuda/gemm_plan.h"

#include <algorithm>
#include <limits>

#include "core/error.h"

namespace lora::cuda {
namespace {

constexpr size_t kMaxSegments = 6;  // device::kMaxGemmSegments
constexpr int kMaxSplits = 64;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t Tiles(const GemmProblem& p, int tile) {
  return CeilDiv(p.m, tile) * CeilDiv(p.n, tile) * p.batches;
}

// Multiply-adds per clock of a multiprocessor that a tile's kernel reaches; only their proportions
// to each other and to the traffic of split sums matter.
double Rate(bool tensor_cores, int tile) {
  return tensor_cores ? (tile == 128 ? 900.0 : 550.0) : (tile == 128 ? 60.0 : 45.0);
}

// Clocks of a launch whose busiest multiprocessor decides, and of the sum over splits.
double Clocks(const GemmProblem& p, bool tensor_cores, int tile, int tile_k,
              int64_t blocks_per_split, int splits, int multiprocessors) {
  const double turns = static_cast<double>(CeilDiv(Tiles(p, tile) * splits, multiprocessors));
  // A block alone on its multiprocessor cannot hide its own latencies.
  const double alone = turns == 1 ? 1.3 : 1.0;
  const double fill = 1500;
  double clocks = turns * (alone * tile * tile * static_cast<double>(blocks_per_split * tile_k) /
                               Rate(tensor_cores, tile) +
                           fill);
  if (splits > 1) {
    const double bytes = 8.0 * splits * static_cast<double>(p.m) * static_cast<double>(p.n);
    clocks += 4000 + bytes / (16.0 * multiprocessors);
  }
  return clocks;
}

}  // namespace

GemmPlan PlanGemm(const char* op, const GemmProblem& p, int multiprocessors) {
  GemmPlan plan;
  plan.tensor_cores =
      p.a_dtype == p.b_dtype && p.a_dtype != DType::kF32 && !(p.trans_a && p.trans_b);
  int64_t k = 0;
  for (const GemmSegment& s : p.segments) {
    k = std::max(k, s.k);
    if (s.k > 0) plan.segments.push_back(s);
  }
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max() - 256;
  if (p.m > kMax || p.n > kMax || k > kMax) {
    Throw("ERR_UNSUPPORTED", op, "expected a product of matrices of at most ", kMax,
          " rows and columns but received ", p.m, " by ", k, " times ", k, " by ", p.n);
  }
  if (p.m == 0 || p.n == 0 || p.batches == 0) return plan;

  const size_t groups =
      std::max<size_t>(1, (plan.segments.size() + kMaxSegments - 1) / kMaxSegments);
  const auto tile_k_of = [&](int tile) { return plan.tensor_cores ? 32 : tile == 128 ? 8 : 16; };
  const auto blocks_of = [&](size_t group, int tile_k) {
    int64_t blocks = 0;
    const size_t end = std::min(plan.segments.size(), (group + 1) * kMaxSegments);
    for (size_t i = group * kMaxSegments; i < end; ++i) {
      blocks += CeilDiv(plan.segments[i].k, tile_k);
    }
    return blocks;
  };
  // The best tile and number of splits for the first group serve all of them.
  double best = std::numeric_limits<double>::infinity();
  int splits = 1;
  for (const int tile : {128, 64}) {
    // Only small tiles are built for what is rare: a transposed a, and operands that are not f32
    // without tensor cores.
    const bool rare =
        plan.tensor_cores ? p.trans_a : p.a_dtype != DType::kF32 || p.b_dtype != DType::kF32;
    if (tile == 128 && rare) continue;
    const int tile_k = tile_k_of(tile);
    const int64_t blocks = blocks_of(0, tile_k);
    for (int s = 1; s <= kMaxSplits; ++s) {
      const int64_t per_split = std::max<int64_t>(1, CeilDiv(blocks, s));
      // Every split must have something to do, and enough of it to be worth a slab.
      if (s > 1 && (p.batches > 1 || per_split * tile_k < 256 || CeilDiv(blocks, per_split) != s ||
                    Tiles(p, tile) * s > 4 * multiprocessors)) {
        continue;
      }
      const double clocks =
          Clocks(p, plan.tensor_cores, tile, tile_k, per_split, s, multiprocessors);
      if (clocks < best) {
        best = clocks;
        plan.tile = tile;
        splits = s;
      }
    }
  }
  plan.tile_k = tile_k_of(plan.tile);
  plan.slabs = 0;
  for (size_t group = 0; group < groups; ++group) {
    GemmLaunch launch;
    launch.first = group * kMaxSegments;
    launch.count = std::min(plan.segments.size() - launch.first, kMaxSegments);
    launch.blocks = static_cast<int>(blocks_of(group, plan.tile_k));
    launch.blocks_per_split = std::max(1, static_cast<int>(CeilDiv(launch.blocks, splits)));
    launch.splits = std::max(1, static_cast<int>(CeilDiv(launch.blocks, launch.blocks_per_split)));
    launch.slab = plan.slabs;
    plan.slabs += launch.splits;
    plan.launches.push_back(launch);
  }
  if (groups > 1 && p.batches > 1) {
    Throw("ERR_UNSUPPORTED", op, "no batches of more than ", kMaxSegments, " segments");
  }
  if (Tiles(p, plan.tile) / p.batches > kMax) {
    Throw("ERR_UNSUPPORTED", op, "the result of ", p.m, " by ", p.n, " has too many tiles");
  }
  if (plan.slabs > 1) {
    plan.partial_pitch = CeilDiv(p.n, 4) * 4;
    plan.scratch_bytes = static_cast<size_t>(plan.slabs) * static_cast<size_t>(p.m) *
                         static_cast<size_t>(plan.partial_pitch) * sizeof(float);
  }
  return plan;
}

}  // namespace lora::cuda
