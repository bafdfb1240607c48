#include <algorithm>

#include "backend/cuda/device/gemm_fma.cuh"
#include "backend/cuda/device/gemm_mma.cuh"
#include "backend/cuda/device/gemm_reduce.cuh"
#include "backend/cuda/gemm.h"
#include "backend/cuda/gemm_plan.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {
namespace {

// The largest of 16, 8, 4 and 2 bytes that divides the place of every row.
int AlignOf(const void* data, DType dtype, int64_t pitch, int64_t batch) {
  const auto size = static_cast<int64_t>(SizeOf(dtype));
  const uint64_t bits = reinterpret_cast<uintptr_t>(data) | static_cast<uint64_t>(pitch * size) |
                        static_cast<uint64_t>(batch * size);
  return bits % 16 == 0 ? 16 : bits % 8 == 0 ? 8 : bits % 4 == 0 ? 4 : 2;
}
// What LoadTile knows of them.
int16_t CopyAlignOf(const void* data, DType dtype, int64_t pitch, int64_t batch) {
  const int align = AlignOf(data, dtype, pitch, batch);
  return static_cast<int16_t>(align == 8 ? 4 : align);
}

device::DropoutMask MaskOf(const Dropout& dropout) {
  const uint32_t threshold = dropout.active() ? DropoutThreshold(dropout.p) : 0;
  return {dropout.seed, dropout.layer, dropout.forward, threshold, DropoutScale(threshold)};
}

// Where c comes of it at once, or of the sum of all slabs.
device::GemmArgs ResultArgs(const GemmProblem& p) {
  device::GemmArgs args{};
  args.m = static_cast<int>(p.m);
  args.n = static_cast<int>(p.n);
  args.c_dtype = p.c_dtype;
  args.bias_dtype = p.bias_dtype;
  args.alpha = p.alpha;
  args.bias = p.bias;
  args.addend = p.addend;
  args.addend_pitch = p.addend_pitch;
  args.c = p.c;
  args.c_pitch = p.c_pitch;
  args.c_align = AlignOf(p.c, p.c_dtype, p.c_pitch, p.c_batch);
  args.c_batch = p.c_batch;
  return args;
}

// Where each split gives a slab of sums.
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
    const GemmSegment& s = plan.segments[launch.first + i];
    args.segments[i] = {s.a,
                        s.b,
                        s.a_pitch,
                        s.b_pitch,
                        MaskOf(s.dropout),
                        static_cast<int>(s.k),
                        CopyAlignOf(s.a, p.a_dtype, s.a_pitch, p.a_batch),
                        CopyAlignOf(s.b, p.b_dtype, s.b_pitch, p.b_batch)};
    if (s.late) args.late_block = std::min(args.late_block, block);
    block += static_cast<int>((s.k + plan.tile_k - 1) / plan.tile_k);
  }
  args.blocks = launch.blocks;
  args.blocks_per_split = launch.blocks_per_split;
  args.a_dtype = p.a_dtype;
  args.b_dtype = p.b_dtype;
  args.trans_a = p.trans_a;
  args.trans_b = p.trans_b;
  args.a_batch = p.a_batch;
  args.b_batch = p.b_batch;
  return args;
}

template <class Tile, auto kKernel>
void LaunchTiles(const char* op, Context& context, const device::LaunchShape& shape,
                 const device::GemmArgs& args) {
  device::LaunchShape with_shared = shape;
  with_shared.shared_bytes = Tile::kSharedBytes;
  Launch<kKernel>(op, context, with_shared, device::GemmParams<Tile>{args});
}

template <class T, bool kTransA, bool kTransB>
void LaunchMma(const char* op, Context& context, int tile, const device::LaunchShape& shape,
               const device::GemmArgs& args) {
  using device::GemmTile128, device::GemmTile64;
  if constexpr (!kTransA) {
    if (tile == 128) {
      LaunchTiles<GemmTile128, device::GemmMma<T, GemmTile128, kTransA, kTransB>>(op, context,
                                                                                  shape, args);
      return;
    }
  }
  LaunchTiles<GemmTile64, device::GemmMma<T, GemmTile64, kTransA, kTransB>>(op, context, shape,
                                                                            args);
}

template <class T>
void LaunchMma(const char* op, Context& context, const GemmPlan& plan,
               const device::LaunchShape& shape, const device::GemmArgs& args) {
  if (args.trans_a) {
    LaunchMma<T, true, false>(op, context, plan.tile, shape, args);
  } else if (args.trans_b) {
    LaunchMma<T, false, true>(op, context, plan.tile, shape, args);
  } else {
    LaunchMma<T, false, false>(op, context, plan.tile, shape, args);
  }
}

void LaunchKernel(const char* op, Context& context, const GemmProblem& p, const GemmPlan& plan,
                  const device::LaunchShape& shape, const device::GemmArgs& args) {
  using device::FmaTile128, device::FmaTile64;
  if (plan.tensor_cores) {
    if (p.a_dtype == DType::kBF16) {
      LaunchMma<device::BF16>(op, context, plan, shape, args);
    } else {
      LaunchMma<device::F16>(op, context, plan, shape, args);
    }
  } else if (plan.tile == 128) {
    LaunchTiles<FmaTile128, device::GemmFma<FmaTile128>>(op, context, shape, args);
  } else {
    LaunchTiles<FmaTile64, device::GemmFma<FmaTile64>>(op, context, shape, args);
  }
}

}  // namespace

size_t GemmScratchBytes(const GemmProblem& problem, int multiprocessors) {
  return PlanGemm("gemm", problem, multiprocessors).scratch_bytes;
}

void Gemm(const char* op, const GemmProblem& p, Scratch scratch, Context& context) {
  const GemmPlan plan = PlanGemm(op, p, context.threads());
  if (plan.launches.empty()) return;
  float* const partials = plan.slabs > 1 ? reinterpret_cast<float*>(scratch.data()) : nullptr;
  const int64_t tiles = (p.m + plan.tile - 1) / plan.tile * ((p.n + plan.tile - 1) / plan.tile);
  device::LaunchShape shape;
  shape.grid_x = static_cast<unsigned>(tiles);
  for (const GemmLaunch& launch : plan.launches) {
    device::GemmArgs args = ArgsOf(p, plan, launch, partials);
    shape.grid_z = static_cast<unsigned>(launch.splits);
    shape.programmatic = p.programmatic && launch.first == 0;
    constexpr int64_t kMaxBatches = 65535;
    for (int64_t batch = 0; batch < p.batches; batch += kMaxBatches) {
      shape.grid_y = static_cast<unsigned>(std::min(p.batches - batch, kMaxBatches));
      LaunchKernel(op, context, p, plan, shape, args);
      const auto skip = [&](const void* data, int64_t elements, DType dtype) {
        return static_cast<const std::byte*>(data) +
               kMaxBatches * elements * static_cast<int64_t>(SizeOf(dtype));
      };
      for (device::GemmSource& s : args.segments) {
        s.a = skip(s.a, p.a_batch, p.a_dtype);
        s.b = skip(s.b, p.b_batch, p.b_dtype);
      }
      args.c = const_cast<std::byte*>(skip(args.c, p.c_batch, p.c_dtype));
      shape.programmatic = false;
    }
  }
  if (partials == nullptr) return;
  const device::GemmReduceParams reduce{ResultArgs(p), partials, plan.partial_pitch, plan.slabs};
  Launch<device::GemmReduce>(
      op, context, Blocks(p.m * ((p.n + 3) / 4), device::GemmReduceParams::kThreads), reduce);
}

}  // namespace lora::cuda
