#include <algorithm>

#include "backend/cuda/device/gemm_fma.cuh"
#include "backend/cuda/device/gemm_mma.cuh"
#include "backend/cuda/device/gemm_reduce.cuh"
#include "backend/cuda/gemm.h"
#include "backend/cuda/gemm_plan.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {
namespace {

// Returns the largest of 16, 8, 4 and 2 bytes that divides the address of every row.
int AlignOf(const void* data, DType dtype, int64_t pitch, int64_t batch) {
  const auto size = static_cast<int64_t>(SizeOf(dtype));
  const uint64_t bits = reinterpret_cast<uintptr_t>(data) | static_cast<uint64_t>(pitch * size) |
                        static_cast<uint64_t>(batch * size);
  return bits % 16 == 0 ? 16 : bits % 8 == 0 ? 8 : bits % 4 == 0 ? 4 : 2;
}
// Returns the alignment that LoadTile distinguishes: 16, 4 or 2 bytes.
int8_t CopyAlignOf(const void* data, DType dtype, int64_t pitch, int64_t batch) {
  const int align = AlignOf(data, dtype, pitch, batch);
  return static_cast<int8_t>(align == 8 ? 4 : align);
}

device::DropoutMask MaskOf(const Dropout& dropout) {
  const uint32_t threshold = dropout.active() ? DropoutThreshold(dropout.p) : 0;
  return {dropout.seed, dropout.layer, dropout.forward, threshold, DropoutScale(threshold)};
}

// Arguments of a launch that writes c, either from one split or from the sum of all slabs.
device::GemmArgs ResultArgs(const GemmProblem& p) {
  device::GemmArgs args{};
  args.m = static_cast<int>(p.m);
  args.n = static_cast<int>(p.n);
  args.c_dtype = p.c_dtype;
  args.bias_dtype = p.bias_dtype;
  args.alpha = p.alpha;
  args.factor = p.factor;
  args.bias = p.bias;
  args.addend = p.addend;
  args.addend_pitch = p.addend_pitch;
  args.c = p.c;
  args.c_pitch = p.c_pitch;
  args.c_align = AlignOf(p.c, p.c_dtype, p.c_pitch, p.c_batch);
  args.c_batch = p.c_batch;
  return args;
}

// Arguments of a launch in which each split writes a slab of sums.
device::GemmArgs PartialArgs(const GemmProblem& p, const GemmPlan& plan, const GemmLaunch& launch,
                             float* partials) {
  device::GemmArgs args{};
  args.m = static_cast<int>(p.m);
  args.n = static_cast<int>(p.n);
  args.c_dtype = DType::kF32;
  args.alpha = 1;
  args.c_split = p.m * plan.partial_pitch;
  args.c = partials + launch.slab * args.c_split;
  args.c_pitch = plan.partial_pitch;
  args.c_align = 16;
  return args;
}

device::GemmArgs ArgsOf(const GemmProblem& p, const GemmPlan& plan, const GemmLaunch& launch,
                        float* partials) {
  device::GemmArgs args =
      partials != nullptr ? PartialArgs(p, plan, launch, partials) : ResultArgs(p);
  args.segment_count = static_cast<int>(launch.count);
  args.late_block = launch.blocks;
  int block = 0;
  for (size_t i = 0; i < launch.count; ++i) {
    const GemmSegment& s = p.segments[plan.segments[launch.first + i]];
    const DType b_dtype = s.b_stored.value_or(p.b_dtype);
    args.segments[i] = {s.a,
                        s.b,
                        s.a_pitch,
                        s.b_pitch,
                        MaskOf(s.dropout),
                        static_cast<int>(s.k),
                        CopyAlignOf(s.a, p.a_dtype, s.a_pitch, p.a_batch),
                        CopyAlignOf(s.b, b_dtype, s.b_pitch, p.b_batch),
                        p.a_dtype,
                        b_dtype};
    if (s.late) args.late_block = std::min(args.late_block, block);
    block += static_cast<int>((s.k + plan.tile_k - 1) / plan.tile_k);
  }
  args.blocks = launch.blocks;
  args.blocks_per_split = launch.blocks_per_split;
  args.trans_a = p.trans_a;
  args.trans_b = p.trans_b;
  args.a_batch = p.a_batch;
  args.b_batch = p.b_batch;
  return args;
}

// The products that share a launch.
using Group = std::vector<device::GemmArgs>;

template <class Tile, auto kKernel>
void LaunchTiles(const char* op, Context& context, const device::LaunchShape& shape,
                 const Group& group) {
  device::GemmParams<Tile> params{};
  std::copy(group.begin(), group.end(), params.gemm);
  params.count = static_cast<int64_t>(group.size());
  device::LaunchShape with_shared = shape;
  with_shared.shared_bytes = Tile::kSharedBytes;
  Launch<kKernel>(op, context, with_shared, params);
}

template <class T, bool kTransA, bool kTransB>
void LaunchMma(const char* op, Context& context, int tile, const device::LaunchShape& shape,
               const Group& group) {
  using device::GemmTile128, device::GemmTile64;
  if constexpr (!kTransA) {
    if (tile == 128) {
      LaunchTiles<GemmTile128, device::GemmMma<T, GemmTile128, kTransA, kTransB>>(op, context,
                                                                                  shape, group);
      return;
    }
  }
  LaunchTiles<GemmTile64, device::GemmMma<T, GemmTile64, kTransA, kTransB>>(op, context, shape,
                                                                            group);
}

bool HasDropout(const Group& group) {
  return std::ranges::any_of(group, [](const device::GemmArgs& args) {
    return std::any_of(args.segments, args.segments + args.segment_count,
                       [](const device::GemmSource& s) { return s.mask.threshold != 0; });
  });
}

// Plans put products with dropout on tensor cores only where no operand is transposed.
template <class T>
void LaunchDropped(const char* op, Context& context, int tile, const device::LaunchShape& shape,
                   const Group& group) {
  using device::GemmTile128, device::GemmTile64;
  if (tile == 128) {
    LaunchTiles<GemmTile128, device::GemmMmaDropped<T, GemmTile128>>(op, context, shape, group);
  } else {
    LaunchTiles<GemmTile64, device::GemmMmaDropped<T, GemmTile64>>(op, context, shape, group);
  }
}

template <class T>
void LaunchMma(const char* op, Context& context, int tile, const device::LaunchShape& shape,
               const Group& group) {
  if (HasDropout(group)) {
    LaunchDropped<T>(op, context, tile, shape, group);
  } else if (group[0].trans_a) {
    LaunchMma<T, true, false>(op, context, tile, shape, group);
  } else if (group[0].trans_b) {
    LaunchMma<T, false, true>(op, context, tile, shape, group);
  } else {
    LaunchMma<T, false, false>(op, context, tile, shape, group);
  }
}

// `dtype` is that of the operands, where they are on tensor cores.
void LaunchKernel(const char* op, Context& context, const GemmPlan& plan, DType dtype,
                  const device::LaunchShape& shape, const Group& group) {
  using device::FmaTile128, device::FmaTile64;
  if (plan.tensor_cores) {
    if (dtype == DType::kBF16) {
      LaunchMma<device::BF16>(op, context, plan.tile, shape, group);
    } else {
      LaunchMma<device::F16>(op, context, plan.tile, shape, group);
    }
  } else if (plan.tile == 128) {
    LaunchTiles<FmaTile128, device::GemmFma<FmaTile128>>(op, context, shape, group);
  } else {
    LaunchTiles<FmaTile64, device::GemmFma<FmaTile64>>(op, context, shape, group);
  }
}

const std::byte* Skip(const void* data, int64_t elements, DType dtype) {
  return static_cast<const std::byte*>(data) + elements * static_cast<int64_t>(SizeOf(dtype));
}

// Launches all batches of one launch of a plan, as many at once as the grid allows.
void LaunchBatches(const char* op, const GemmProblem& p, const GemmPlan& plan,
                   const GemmLaunch& launch, device::GemmArgs args, Context& context) {
  constexpr int64_t kMaxBatches = 65535;
  device::LaunchShape shape;
  shape.grid_x = static_cast<unsigned>(plan.tiles);
  shape.grid_z = static_cast<unsigned>(launch.splits);
  shape.programmatic = p.programmatic && launch.first == 0;
  for (int64_t batch = 0; batch < p.batches; batch += kMaxBatches) {
    if (batch > 0) {
      for (device::GemmSource& s : args.segments) {
        s.a = Skip(s.a, kMaxBatches * p.a_batch, s.a_dtype);
        s.b = Skip(s.b, kMaxBatches * p.b_batch, s.b_dtype);
      }
      args.c = const_cast<std::byte*>(Skip(args.c, kMaxBatches * p.c_batch, p.c_dtype));
      shape.programmatic = false;
    }
    shape.grid_y = static_cast<unsigned>(std::min(p.batches - batch, kMaxBatches));
    LaunchKernel(op, context, plan, p.a_dtype, shape, {args});
  }
}

}  // namespace

void Gemm(const char* op, const GemmProblem& p, const GemmPlan& plan, Scratch scratch,
          Context& context) {
  if (plan.launches.empty()) return;
  float* const partials = plan.slabs > 1 ? reinterpret_cast<float*>(scratch.data()) : nullptr;
  for (const GemmLaunch& launch : plan.launches)
    LaunchBatches(op, p, plan, launch, ArgsOf(p, plan, launch, partials), context);
  if (partials == nullptr) return;
  const device::GemmReduceParams reduce{ResultArgs(p), partials, plan.partial_pitch, plan.slabs};
  Launch<device::GemmReduce>(
      op, context, Blocks(p.m * ((p.n + 3) / 4), device::GemmReduceParams::kThreads), reduce);
}

void GemmGroup(const char* op, const std::vector<GemmProblem>& problems, const GemmGroupPlan& group,
               Scratch scratch, Context& context) {
  Group together;
  device::LaunchShape shape;
  shape.grid_x = 0;
  bool first = true;
  for (size_t i = 0; i < problems.size(); ++i) {
    const GemmPlan& plan = group.plans[i];
    if (plan.launches.empty()) continue;
    GemmProblem p = problems[i];
    p.programmatic = p.programmatic && first;
    if (group.together) {
      device::GemmArgs args = ArgsOf(p, plan, plan.launches[0], nullptr);
      args.first_tile = static_cast<int>(shape.grid_x);
      together.push_back(args);
      shape.grid_x += static_cast<unsigned>(plan.tiles);
      shape.programmatic = shape.programmatic || p.programmatic;
    } else {
      Gemm(op, p, plan, scratch, context);
    }
    first = false;
  }
  if (group.together)
    LaunchKernel(op, context, group.plans[0], problems[0].a_dtype, shape, together);
}

}  // namespace lora::cuda
