// c[m, n] = Σ over segments of a[m, k]·b[k, n]
// of 16-bit elements on tensor cores, with f32 accumulators. With kTransA, a is stored [k, m]; with
// kTransB, b is stored [n, k] (a frozen W in forward).
//
// gemm_tile.cuh describes how tiles are moved and multiplied, gemm_epilogue.cuh how c is stored.
// The kernels read a and b once per tile row and column of c, and write c once.
#pragma once

#include "backend/cuda/device/gemm_dropped.cuh"
#include "backend/cuda/device/gemm_epilogue.cuh"
#include "backend/cuda/device/gemm_walk.cuh"

namespace lora::device {

// The body of all kernels. kDropped: segments may have dropout. `walk` copies the operands.
// store(p.out, place, acc, stages) gets the sums, and the shared memory from which other threads
// may still read.
template <class T, class Tile, bool kTransA, bool kTransB, bool kDropped, class Walk, class F>
LORA_DEVICE void RunGemmMma(const GemmParams<Tile>& params, unsigned char* shared, Walk& walk,
                            const F& store) {
  const GemmProduct& p = ProductOfBlock(params);
  const GemmPlace place = PlaceOf<Tile>(p);
  const int first = BlockZ() * p.blocks_per_split;
  const int count = p.blocks - first < p.blocks_per_split ? p.blocks - first : p.blocks_per_split;

  GemmAccumulators<Tile> acc;
  LORA_UNROLL
  for (int i = 0; i < Tile::kRowTiles; ++i) {
    LORA_UNROLL
    for (int j = 0; j < Tile::kColTiles; ++j) {
      LORA_UNROLL
      for (int e = 0; e < 4; ++e) acc[i][j][e] = 0.0f;
    }
  }

  GemmCursor use_at = SeekBlock(params, p, first);
  walk.Start(params, p, place, use_at);
  const FragmentPlaces<Tile, kTransA, kTransB> fragments;
  bool waited = false;
  int filled = 0;         // stages so far
  int fill = 0, use = 0;  // where the next stage to fill and to use begin, in bytes
  const auto next = [](int stage) {
    return stage + Tile::kStageBytes == Tile::kSharedBytes ? 0 : stage + Tile::kStageBytes;
  };
  for (int turn = 1 - Tile::kStages; turn < count; ++turn) {
    if (turn >= 0) {
      CopyAsyncWait<Tile::kStages - 2>();
      walk.Arrived(first + turn, shared + use);
      // All copies to this stage have arrived, and all threads have finished with the stage that is
      // filled next.
      SyncThreads();
    }
    if (filled < count) {
      if (!waited && first + filled >= p.late_block) {
        GridDependencyWait();
        waited = true;
      }
      ++filled;
      walk.Copy(params, p, place, shared + fill, filled < count);
      fill = next(fill);
    }
    CopyAsyncCommit();
    if (turn < 0) continue;
    const unsigned char* stage = shared + use;
    use = next(use);
    if constexpr (kDropped) {
      static_assert(!kTransA && !kTransB);
      const DropoutMask& mask = SegmentAt(params, use_at).mask;
      if (mask.threshold == 0) {
        MultiplyStage<T, Tile, kTransA, kTransB>(acc, stage, fragments);
      } else {
        MultiplyDropped<T, Tile>(acc, stage, fragments, mask, place);
      }
      NextBlock(params, use_at);
    } else {
      MultiplyStage<T, Tile, kTransA, kTransB>(acc, stage, fragments);
    }
  }
  if (!waited) GridDependencyWait();
  store(p.out, place, acc, reinterpret_cast<float*>(shared));
}

template <class T, class Tile, bool kTransA, bool kTransB, bool kDropped, class F>
LORA_DEVICE void RunGemmMma(const GemmParams<Tile>& params, unsigned char* shared, const F& store) {
  GemmWalk<Tile, kTransA, kTransB> walk;
  RunGemmMma<T, Tile, kTransA, kTransB, kDropped>(params, shared, walk, store);
}

// For kernels that store c.
template <class T, class Tile>
struct StoreC {
  LORA_DEVICE void operator()(const GemmEpilogue& p, const GemmPlace& place,
                              const GemmAccumulators<Tile>& acc, float* stages) const {
    StoreAccumulators<T, Tile>(p, place, acc, stages);
  }
};

template <class T, class Tile, bool kTransA, bool kTransB>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(Tile::kThreads, Tile::kMinBlocks)
    GemmMma(const LORA_GRID_CONSTANT GemmParams<Tile> params) {
  LORA_DYNAMIC_SHARED(shared);
  RunGemmMma<T, Tile, kTransA, kTransB, false>(params, shared, StoreC<T, Tile>());
}

// The kernel for products with dropout in some segment: the gradient of x, whose operands are not
// transposed.
template <class T, class Tile>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(Tile::kThreads, Tile::kDroppedMinBlocks)
    GemmMmaDropped(const LORA_GRID_CONSTANT GemmParams<Tile> params) {
  LORA_DYNAMIC_SHARED(shared);
  RunGemmMma<T, Tile, false, false, true>(params, shared, StoreC<T, Tile>());
}

}  // namespace lora::device
