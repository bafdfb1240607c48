#include <algorithm>
#include <cstring>

#include "backend/cpu/arena.h"
#include "backend/cpu/attention_tasks.h"
#include "backend/cpu/context.h"
#include "backend/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/attention.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/attention-inl.h"
#include "backend/cpu/attention_backward-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu {
namespace HWY_NAMESPACE {

void RunForwardTile(const AttentionForwardArgs& args, const AttentionShape& s, const RowTile& t,
                    float* scratch) {
  if (args.q.dtype == DType::kBF16) return ForwardTile<hwy::bfloat16_t>(args, s, t, scratch);
  ForwardTile<float>(args, s, t, scratch);
}

void RunDecodeChunk(const AttentionForwardArgs& args, const AttentionShape& s, const RowTile& t,
                    int32_t begin, int32_t end, float* scratch, const DecodePartial& out) {
  if (args.q.dtype == DType::kBF16) {
    return DecodeChunk<hwy::bfloat16_t>(args, s, t, begin, end, scratch, out);
  }
  DecodeChunk<float>(args, s, t, begin, end, scratch, out);
}

void RunCombineChunks(const AttentionForwardArgs& args, const AttentionShape& s, const RowTile& t,
                      float* partials, size_t stride, size_t chunks) {
  if (args.q.dtype == DType::kBF16) {
    return CombineChunks<hwy::bfloat16_t>(args, s, t, partials, stride, chunks);
  }
  CombineChunks<float>(args, s, t, partials, stride, chunks);
}

void RunBackwardTile(const AttentionBackwardArgs& args, const AttentionShape& s, const RowTile& t,
                     float* scratch, float* dk, float* dv) {
  if (args.q.dtype == DType::kBF16) {
    return BackwardTile<hwy::bfloat16_t>(args, s, t, scratch, dk, dv);
  }
  BackwardTile<float>(args, s, t, scratch, dk, dv);
}

void RunStoreKeyGradients(const AttentionBackwardArgs& args, const AttentionShape& s, size_t batch,
                          size_t head, size_t begin, size_t end, float* sums, size_t stride,
                          size_t splits) {
  if (args.q.dtype == DType::kBF16) {
    return StoreKeyGradients<hwy::bfloat16_t>(args, s, batch, head, begin, end, sums, stride,
                                              splits);
  }
  StoreKeyGradients<float>(args, s, batch, head, begin, end, sums, stride, splits);
}

}  // namespace HWY_NAMESPACE
}  // namespace lora::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {
namespace {

HWY_EXPORT(RunForwardTile);
HWY_EXPORT(RunDecodeChunk);
HWY_EXPORT(RunCombineChunks);
HWY_EXPORT(RunBackwardTile);
HWY_EXPORT(RunStoreKeyGradients);

AttentionShape ShapeOf(const AttentionForwardArgs& a) {
  return AttentionShape(a.q, a.k, a.key_begin, a.kv_length, a.q_offset, a.window, a.scale);
}
AttentionShape ShapeOf(const AttentionBackwardArgs& a) {
  return AttentionShape(a.q, a.k, a.key_begin, a.k.dim(1), 0, a.window, a.scale);
}

RowTile TileOf(const AttentionShape& s, size_t pair, size_t tile) {
  const size_t first = tile * kRowTile;
  return RowTile(s, pair / s.kv_heads, pair % s.kv_heads, first,
                 std::min(kRowTile, s.rows - first));
}

bool IsDecode(const AttentionShape& s) { return s.rows <= kDecodeRows; }

size_t DecodeChunks(const AttentionShape& s) {
  return std::max<size_t>(1, (static_cast<size_t>(s.kv_length) + kDecodeChunk - 1) / kDecodeChunk);
}

// Returns into how many parts the row tiles of one (batch, kv head) are split. Each part has its
// own sums of dk and dv, so the fewest parts are taken that keep the threads evenly busy.
size_t BackwardSplits(const AttentionShape& s, int threads) {
  const size_t t = static_cast<size_t>(threads);
  const size_t limit = std::max<size_t>(1, std::min(s.row_tiles(), t));
  for (size_t splits = 1; splits < limit; ++splits) {
    const size_t tasks = s.pairs() * splits;
    if (10 * tasks >= 9 * RoundUp(tasks, t)) return splits;
  }
  return limit;
}

// Returns the pool, or null where waking its threads would take longer than the work.
CpuContext* PoolFor(const AttentionShape& s, Context& context) {
  constexpr size_t kWorthThreads = size_t{1} << 16;  // multiplications
  const size_t work = s.pairs() * s.rows * static_cast<size_t>(s.kv_length) * s.d;
  return work < kWorthThreads ? nullptr : static_cast<CpuContext*>(&context);
}

size_t KeySumFloats(const AttentionShape& s) { return s.capacity * s.padded; }

}  // namespace

// ---- forward -----------------------------------------------------------------------------------

size_t ScratchBytes(const AttentionForwardArgs& args, int threads) {
  const AttentionShape s = ShapeOf(args);
  if (s.empty()) return 0;
  Arena arena;
  if (IsDecode(s)) {
    arena.Take<float>(s.pairs() * DecodeChunks(s) * DecodePartialFloats(s));
    arena.Take<float>(static_cast<size_t>(threads) * DecodeTaskFloats(s));
  } else {
    arena.Take<float>(static_cast<size_t>(threads) * ForwardTileFloats(s));
  }
  return arena.bytes();
}

void Run(const AttentionForwardArgs& args, Scratch scratch, Context& context) {
  const AttentionShape s = ShapeOf(args);
  if (s.empty()) return;
  CpuContext* pool = PoolFor(s, context);
  Arena arena(scratch);
  if (!IsDecode(s)) {
    const size_t tiles = s.row_tiles();
    float* tile_scratch =
        arena.Take<float>(static_cast<size_t>(context.threads()) * ForwardTileFloats(s));
    const auto run = HWY_DYNAMIC_POINTER(RunForwardTile);
    ParallelFor(pool, s.pairs() * tiles, [&](size_t task, size_t thread) {
      run(args, s, TileOf(s, task / tiles, task % tiles),
          tile_scratch + thread * ForwardTileFloats(s));
    });
    return;
  }
  const size_t chunks = DecodeChunks(s), stride = DecodePartialFloats(s);
  float* partials = arena.Take<float>(s.pairs() * chunks * stride);
  float* task_scratch =
      arena.Take<float>(static_cast<size_t>(context.threads()) * DecodeTaskFloats(s));
  const auto run = HWY_DYNAMIC_POINTER(RunDecodeChunk);
  // Tasks are ordered so that the heads of a chunk follow each other, because
  // their keys share pages.
  ParallelFor(pool, s.pairs() * chunks, [&](size_t task, size_t thread) {
    const size_t head = task % s.kv_heads, chunk = task / s.kv_heads % chunks;
    const size_t pair = task / (s.kv_heads * chunks) * s.kv_heads + head;
    const size_t begin = chunk * kDecodeChunk;
    run(args, s, TileOf(s, pair, 0), static_cast<int32_t>(begin),
        static_cast<int32_t>(begin + kDecodeChunk), task_scratch + thread * DecodeTaskFloats(s),
        DecodePartial(s, partials + (pair * chunks + chunk) * stride));
  });
  const auto combine = HWY_DYNAMIC_POINTER(RunCombineChunks);
  for (size_t pair = 0; pair < s.pairs(); ++pair) {
    combine(args, s, TileOf(s, pair, 0), partials + pair * chunks * stride, stride, chunks);
  }
}

// ---- backward ----------------------------------------------------------------------------------

// With one part, a thread finishes a (batch, kv head) alone and reuses its sums for the next one.
size_t ScratchBytes(const AttentionBackwardArgs& args, int threads) {
  const AttentionShape s = ShapeOf(args);
  if (s.empty()) return 0;
  const size_t splits = BackwardSplits(s, threads);
  const size_t sums = splits == 1 ? static_cast<size_t>(threads) : s.pairs() * splits;
  Arena arena;
  arena.Take<float>(static_cast<size_t>(threads) * BackwardTileFloats(s));
  arena.Take<float>(sums * 2 * KeySumFloats(s));
  return arena.bytes();
}

void Run(const AttentionBackwardArgs& args, Scratch scratch, Context& context) {
  const AttentionShape s = ShapeOf(args);
  if (s.empty()) {  // without query heads there may still be keys
    std::memset(args.dk.data, 0, args.dk.bytes());
    std::memset(args.dv.data, 0, args.dv.bytes());
    return;
  }
  CpuContext* pool = PoolFor(s, context);
  const size_t threads = static_cast<size_t>(context.threads());
  const size_t splits = BackwardSplits(s, context.threads()), tiles = s.row_tiles();
  const size_t sum_floats = KeySumFloats(s);
  Arena arena(scratch);
  float* tile_scratch = arena.Take<float>(threads * BackwardTileFloats(s));
  float* sums = arena.Take<float>((splits == 1 ? threads : s.pairs() * splits) * 2 * sum_floats);
  const auto run = HWY_DYNAMIC_POINTER(RunBackwardTile);
  const auto store = HWY_DYNAMIC_POINTER(RunStoreKeyGradients);
  ParallelFor(pool, s.pairs() * splits, [&](size_t task, size_t thread) {
    const size_t pair = task / splits, split = task % splits;
    float* dk = sums + (splits == 1 ? thread : task) * 2 * sum_floats;
    std::memset(dk, 0, 2 * sum_floats * sizeof(float));
    // Rounds alternate their direction (0, 1, 2, 2, 1, 0, …), which balances the parts, because
    // later tiles see more keys.
    for (size_t round = 0; round * splits < tiles; ++round) {
      const size_t tile = round * splits + (round % 2 == 0 ? split : splits - 1 - split);
      if (tile >= tiles) continue;
      run(args, s, TileOf(s, pair, tile), tile_scratch + thread * BackwardTileFloats(s), dk,
          dk + sum_floats);
    }
    if (splits == 1) {
      store(args, s, pair / s.kv_heads, pair % s.kv_heads, 0, s.capacity, dk, 0, 1);
    }
  });
  if (splits == 1) return;
  const size_t parts = (s.capacity + kKeyTile - 1) / kKeyTile;
  ParallelFor(pool, s.pairs() * parts, [&](size_t task, size_t) {
    const size_t pair = task / parts, begin = task % parts * kKeyTile;
    store(args, s, pair / s.kv_heads, pair % s.kv_heads, begin,
          std::min(s.capacity, begin + kKeyTile), sums + pair * splits * 2 * sum_floats,
          2 * sum_floats, splits);
  });
}

}  // namespace lora::cpu
#endif  // HWY_ONCE
