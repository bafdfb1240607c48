#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "backend/cuda/device/gemm_coded.cuh"
#include "backend/cuda/device/gemm_fma.cuh"
#include "backend/cuda/device/gemm_logits.cuh"
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

device::DropoutMask MaskOf(const Dropout& dropout) {
  const uint32_t threshold = dropout.active() ? DropoutThreshold(dropout.p) : 0;
  return {dropout.seed, dropout.layer, dropout.forward, threshold, DropoutScale(threshold)};
}

// The epilogue of a launch that writes c, either from one split or from the sum of all slabs.
device::GemmEpilogue ResultOf(const GemmProblem& p) {
  device::GemmEpilogue out{};
  out.m = static_cast<int>(p.m);
  out.n = static_cast<int>(p.n);
  out.c = p.c;
  out.factor = p.factor;
  out.bias = p.bias;
  out.addend = p.addend;
  out.c_pitch = p.c_pitch;
  out.addend_pitch = p.addend_pitch;
  out.c_batch = p.c_batch;
  out.alpha = p.alpha;
  out.c_dtype = p.c_dtype;
  out.bias_dtype = p.bias_dtype;
  out.c_align = static_cast<int16_t>(AlignOf(p.c, p.c_dtype, p.c_pitch, p.c_batch));
  return out;
}

// The epilogue of a launch in which each split writes a slab of sums.
device::GemmEpilogue PartialOf(const GemmProblem& p, const GemmPlan& plan, const GemmLaunch& launch,
                               float* partials) {
  device::GemmEpilogue out{};
  out.m = static_cast<int>(p.m);
  out.n = static_cast<int>(p.n);
  out.c_split = p.m * plan.partial_pitch;
  out.c = partials + launch.slab * out.c_split;
  out.c_pitch = plan.partial_pitch;
  out.alpha = 1;
  out.c_dtype = DType::kF32;
  out.c_align = 16;
  return out;
}

// The products that share a launch.
struct Group {
  std::vector<device::GemmSource> segments;
  std::vector<device::GemmProduct> products;
  bool trans_a = false, trans_b = false;
  std::optional<device::LogitsOut> logits;
  std::optional<device::CodedSegments> coded;
};

device::LogitsOut LogitsOf(const GemmLogits& p) {
  return {reinterpret_cast<device::RowPart*>(p.parts),
          p.labels,
          p.label_logits,
          p.parts_pitch,
          static_cast<int>(p.first),
          p.cap};
}

// Adds the product of a launch of a plan, whose tiles begin at `first_tile`.
void Add(const GemmProblem& p, const GemmPlan& plan, const GemmLaunch& launch,
         const device::GemmEpilogue& out, unsigned first_tile, Group& group) {
  group.trans_a = p.trans_a;
  group.trans_b = p.trans_b;
  if (p.logits) group.logits = LogitsOf(*p.logits);
  device::GemmProduct product{};
  product.first_segment = static_cast<int>(group.segments.size());
  product.segment_count = static_cast<int>(launch.count);
  product.first_tile = static_cast<int>(first_tile);
  product.blocks = launch.blocks;
  product.blocks_per_split = launch.blocks_per_split;
  product.late_block = launch.blocks;
  product.a_batch = p.a_batch;
  product.b_batch = p.b_batch;
  product.out = out;
  int block = 0;
  for (size_t i = 0; i < launch.count; ++i) {
    const GemmSegment& s = p.segments[plan.segments[launch.first + i]];
    const DType b_dtype = s.b_stored.value_or(p.b_dtype);
    if (s.b_scales != nullptr) {
      if (!group.coded) group.coded.emplace();
      group.coded->scales[group.segments.size()] = s.b_scales;
      std::copy_n(p.codes, kCodes, group.coded->codes);
    }
    group.segments.push_back(
        {s.a, s.b, s.a_pitch, s.b_pitch, MaskOf(s.dropout), static_cast<int>(s.k),
         AlignOf(s.a, p.a_dtype, s.a_pitch, p.a_batch) == 16,
         AlignOf(s.b, b_dtype, s.b_pitch, p.b_batch) == 16, p.a_dtype, b_dtype});
    if (s.late) product.late_block = std::min(product.late_block, block);
    block += static_cast<int>((s.k + plan.tile_k - 1) / plan.tile_k);
  }
  group.products.push_back(product);
}

template <class Tile, auto kKernel, class Params = device::GemmParams<Tile>>
void LaunchTiles(const char* op, Context& context, const device::LaunchShape& shape,
                 const Group& group) {
  Params params{};
  if constexpr (requires { params.to; }) params.to = *group.logits;
  if constexpr (requires { params.coded; }) params.coded = *group.coded;
  std::ranges::copy(group.segments, params.segment);
  std::ranges::copy(group.products, params.product);
  params.count = static_cast<int>(group.products.size());
  params.trans_a = group.trans_a;
  params.trans_b = group.trans_b;
  Launch<kKernel>(op, context, shape, params);
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
  return std::ranges::any_of(group.segments,
                             [](const device::GemmSource& s) { return s.mask.threshold != 0; });
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

void LaunchLogits(const char* op, Context& context, int tile, const device::LaunchShape& shape,
                  const Group& group) {
  using device::BF16, device::GemmTile128, device::GemmTile64, device::GemmLogitsParams;
  if (tile == 128) {
    LaunchTiles<GemmTile128, device::GemmMmaLogits<BF16, GemmTile128>,
                GemmLogitsParams<GemmTile128>>(op, context, shape, group);
  } else {
    LaunchTiles<GemmTile64, device::GemmMmaLogits<BF16, GemmTile64>, GemmLogitsParams<GemmTile64>>(
        op, context, shape, group);
  }
}

void LaunchCoded(const char* op, Context& context, int tile, const device::LaunchShape& shape,
                 const Group& group) {
  using device::BF16, device::GemmTile128, device::GemmTile64, device::GemmCodedParams;
  if (tile == 128) {
    LaunchTiles<GemmTile128, device::GemmMmaCoded<BF16, GemmTile128>, GemmCodedParams<GemmTile128>>(
        op, context, shape, group);
  } else {
    LaunchTiles<GemmTile64, device::GemmMmaCoded<BF16, GemmTile64>, GemmCodedParams<GemmTile64>>(
        op, context, shape, group);
  }
}

template <class T>
void LaunchMma(const char* op, Context& context, int tile, const device::LaunchShape& shape,
               const Group& group) {
  if (HasDropout(group)) {
    LaunchDropped<T>(op, context, tile, shape, group);
  } else if (group.trans_a) {
    LaunchMma<T, true, false>(op, context, tile, shape, group);
  } else if (group.trans_b) {
    LaunchMma<T, false, true>(op, context, tile, shape, group);
  } else {
    LaunchMma<T, false, false>(op, context, tile, shape, group);
  }
}

// `dtype` is that of the operands, where they are on tensor cores.
void LaunchKernel(const char* op, Context& context, const GemmPlan& plan, DType dtype,
                  const device::LaunchShape& shape, const Group& group) {
  using device::FmaTile128, device::FmaTile64;
  if (group.logits) {
    LaunchLogits(op, context, plan.tile, shape, group);
  } else if (group.coded) {
    LaunchCoded(op, context, plan.tile, shape, group);
  } else if (plan.tensor_cores) {
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
                   const GemmLaunch& launch, Group group, Context& context) {
  constexpr int64_t kMaxBatches = 65535;
  device::LaunchShape shape;
  shape.grid_x = static_cast<unsigned>(plan.tiles);
  shape.grid_z = static_cast<unsigned>(launch.splits);
  shape.programmatic = p.programmatic && launch.first == 0;
  for (int64_t batch = 0; batch < p.batches; batch += kMaxBatches) {
    if (batch > 0) {
      for (device::GemmSource& s : group.segments) {
        s.a = Skip(s.a, kMaxBatches * p.a_batch, s.a_dtype);
        s.b = Skip(s.b, kMaxBatches * p.b_batch, s.b_dtype);
      }
      void*& c = group.products[0].out.c;
      c = const_cast<std::byte*>(Skip(c, kMaxBatches * p.c_batch, p.c_dtype));
      shape.programmatic = false;
    }
    shape.grid_y = static_cast<unsigned>(std::min(p.batches - batch, kMaxBatches));
    LaunchKernel(op, context, plan, p.a_dtype, shape, group);
  }
}

}  // namespace

void Gemm(const char* op, const GemmProblem& p, const GemmPlan& plan, Scratch scratch,
          Context& context) {
  if (plan.launches.empty()) return;
  float* const partials = plan.slabs > 1 ? reinterpret_cast<float*>(scratch.data()) : nullptr;
  for (const GemmLaunch& launch : plan.launches) {
    Group group;
    Add(p, plan, launch, partials == nullptr ? ResultOf(p) : PartialOf(p, plan, launch, partials),
        0, group);
    LaunchBatches(op, p, plan, launch, std::move(group), context);
  }
  if (partials == nullptr) return;
  const device::GemmReduceParams reduce{ResultOf(p), partials, plan.partial_pitch, plan.slabs};
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
      Add(p, plan, plan.launches[0], ResultOf(p), shape.grid_x, together);
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
