#include <algorithm>
#include <cstring>

#include "backend/cpu/attention/attention_call.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/arena.h"
#include "backend/cpu/runtime/context.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/attention/attention.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/attention/attention-inl.h"
#include "backend/cpu/attention/attention_backward-inl.h"
#include "backend/cpu/attention/attention_decode-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

void RunForwardBlock(const AttentionCall& args, const AttentionShape& s, const RowBlock& block,
                     float* scratch) {
  if (args.q.dtype == DType::kBF16) {
    TileRegisters registers;
    registers.ConfigureBlock(kAmxBlockRows);
    return ForwardBlock<hwy::bfloat16_t>(args, s, block, scratch);
  }
  ForwardBlock<float>(args, s, block, scratch);
}

void RunDecodeUnits(const AttentionCall& call, const DecodeUnits& units, Range range,
                    float* scratch) {
  const DecodeScratch of(call.shape, scratch);
  if (call.q.dtype == DType::kF32)
    return DecodeRange<WidenedOperands<float>>(call, units, range, of);
#if LORA_DOT_BF16
  if (call.shape.d % 2 == 0) return DecodeRange<PairOperands>(call, units, range, of);
#endif
  DecodeRange<WidenedOperands<hwy::bfloat16_t>>(call, units, range, of);
}

void RunCombineChunks(const AttentionCall& args, const AttentionShape& s, const RowTile& t,
                      float* partials, size_t stride, size_t chunks) {
  if (args.q.dtype == DType::kBF16) {
    return CombineChunks<hwy::bfloat16_t>(args, s, t, partials, stride, chunks);
  }
  CombineChunks<float>(args, s, t, partials, stride, chunks);
}

void RunBackwardBlock(const AttentionBackwardArgs& args, const AttentionShape& s,
                      const RowBlock& block, float* scratch, float* dk, float* dv) {
  if (args.q.dtype == DType::kBF16) {
    TileRegisters registers;
    registers.ConfigureBlock(kAmxBlockRows);
    return BackwardBlock<hwy::bfloat16_t>(args, s, block, scratch, dk, dv);
  }
  BackwardBlock<float>(args, s, block, scratch, dk, dv);
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

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {
namespace {

HWY_EXPORT(RunForwardBlock);
HWY_EXPORT(RunDecodeUnits);
HWY_EXPORT(RunCombineChunks);
HWY_EXPORT(RunBackwardBlock);
HWY_EXPORT(RunStoreKeyGradients);

AttentionShape ShapeOf(const AttentionBackwardArgs& a) {
  return AttentionShape(a.q, a.k, a.key_begin, a.key_end, a.window, a.scale);
}

RowBlock BlockOf(const AttentionShape& s, size_t pair, size_t block, size_t rows) {
  const size_t first = block * rows;
  return RowBlock(s, pair / s.kv_heads, pair % s.kv_heads, first, std::min(rows, s.rows - first));
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

// Returns how many of `tiles` row tiles make a block, so that there are at least `blocks`. Tiles of
// a block share what is made of the keys; f32 keys are read in place.
size_t TilesOfBlock(DType dtype, size_t tiles, size_t blocks) {
  return dtype == DType::kF32 ? 1 : std::clamp<size_t>(tiles / blocks, 1, kMaxTiles);
}
// Of the forward pass, whose blocks are tasks: so many of each thread keep the threads evenly busy.
size_t ForwardTiles(const AttentionCall& call, size_t threads) {
  return TilesOfBlock(call.q.dtype, call.shape.pairs() * call.shape.row_tiles(), 8 * threads);
}
// Of the backward pass: so many blocks make the parts of a (batch, kv head) nearly equal.
size_t BackwardTiles(const AttentionBackwardArgs& args, const AttentionShape& s, size_t splits) {
  return TilesOfBlock(args.q.dtype, s.row_tiles(), 4 * splits);
}

// Returns the pool, or null where waking its threads would take longer than so many
// multiplications.
CpuContext* PoolFor(size_t work, Context& context) {
  constexpr size_t kWorthThreads = size_t{1} << 16;
  return work < kWorthThreads ? nullptr : static_cast<CpuContext*>(&context);
}

size_t KeySumFloats(const AttentionShape& s) { return s.queries * s.padded; }

// ---- forward -----------------------------------------------------------------------------------

size_t ScratchBytesOf(const AttentionCall& call, int threads) {
  const AttentionShape& s = call.shape;
  if (s.empty()) return 0;
  Arena arena;
  if (call.decode) {
    arena.Take<size_t>(s.batch + 1);
    arena.Take<float>(DecodeUnits::PartialFloats(s));
    arena.Take<float>(static_cast<size_t>(threads) * DecodeScratch::Floats(s));
  } else {
    const size_t count = static_cast<size_t>(threads);
    arena.Take<float>(count * ForwardFloats(s, ForwardTiles(call, count)));
  }
  return arena.bytes();
}

// Units of a task follow each other, so that the keys of the next one are fetched early.
void RunDecode(const AttentionCall& call, CpuContext* pool, size_t threads, Scratch scratch) {
  constexpr size_t kTasks = 8;  // of each thread, which even out the time that others take
  const AttentionShape& s = call.shape;
  Arena arena(scratch);
  size_t* const starts = arena.Take<size_t>(s.batch + 1);
  const DecodeUnits units(s, starts, arena.Take<float>(DecodeUnits::PartialFloats(s)));
  float* const task_scratch = arena.Take<float>(threads * DecodeScratch::Floats(s));
  const size_t count = units.count(), tasks = std::min(count, kTasks * threads);
  const auto run = HWY_DYNAMIC_POINTER(RunDecodeUnits);
  ParallelFor(pool, tasks, [&](size_t task, size_t thread) {
    run(call, units, Split(count, tasks, task), task_scratch + thread * DecodeScratch::Floats(s));
  });
  const auto combine = HWY_DYNAMIC_POINTER(RunCombineChunks);
  constexpr size_t kWorthThreads = size_t{1} << 16;  // floats of the partial results
  const size_t heads = units.heads();
  ParallelFor(
      count * units.stride() < kWorthThreads ? nullptr : pool, s.batch * heads,
      [&](size_t task, size_t) {
        const size_t b = task / heads, head = task % heads;
        const size_t first = head % units.tiles() * kDecodeRows;
        combine(call, s,
                RowTile(s, b, head / units.tiles(), first, std::min(kDecodeRows, s.rows - first)),
                units.partials(b, head), units.stride(), units.chunks(b));
      });
}

void RunForward(const AttentionCall& call, Scratch scratch, Context& context) {
  const AttentionShape& s = call.shape;
  if (s.empty()) return;
  size_t keys = 0;
  for (size_t b = 0; b < s.batch; ++b) keys += static_cast<size_t>(s.Position(b)) + s.queries;
  CpuContext* pool = PoolFor(s.kv_heads * s.rows * s.d * keys, context);
  const size_t threads = static_cast<size_t>(context.threads());
  if (call.decode) return RunDecode(call, pool, threads, scratch);
  Arena arena(scratch);
  const size_t tiles = ForwardTiles(call, threads), floats = ForwardFloats(s, tiles);
  const size_t rows = tiles * kRowTile, blocks = CeilDiv(s.rows, rows);
  float* block_scratch = arena.Take<float>(threads * floats);
  const auto run = HWY_DYNAMIC_POINTER(RunForwardBlock);
  // Causally, later blocks see more keys. They are taken first, so that the last task is a short
  // one.
  ParallelFor(pool, s.pairs() * blocks, [&](size_t task, size_t thread) {
    run(call, s, BlockOf(s, task / blocks, blocks - 1 - task % blocks, rows),
        block_scratch + thread * floats);
  });
}

}  // namespace

PlannedCall PlanAttention(const AttentionCall& call, int threads) {
  return CallOf<AttentionCall>(call, ScratchBytesOf(call, threads), RunForward);
}

PlannedCall PlanCall(const AttentionForwardArgs& args, int threads) {
  const AttentionShape shape(args.q, args.k, args.key_begin, args.key_end, args.window, args.scale);
  return PlanAttention(
      {shape, args.q, args.k, args.v, args.sinks, args.y, args.lse, shape.rows <= kDecodeRows},
      threads);
}

// ---- backward ----------------------------------------------------------------------------------

// With one part, a thread finishes a (batch, kv head) alone and reuses its sums for the next one.
size_t ScratchBytes(const AttentionBackwardArgs& args, int threads) {
  const AttentionShape s = ShapeOf(args);
  if (s.empty()) return 0;
  const size_t splits = BackwardSplits(s, threads);
  const size_t sums = splits == 1 ? static_cast<size_t>(threads) : s.pairs() * splits;
  Arena arena;
  arena.Take<float>(static_cast<size_t>(threads) *
                    BackwardFloats(s, BackwardTiles(args, s, splits)));
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
  CpuContext* pool = PoolFor(s.pairs() * s.rows * s.queries * s.d, context);
  const size_t threads = static_cast<size_t>(context.threads());
  const size_t splits = BackwardSplits(s, context.threads());
  const size_t tiles = BackwardTiles(args, s, splits), floats = BackwardFloats(s, tiles);
  const size_t rows = tiles * kRowTile, blocks = CeilDiv(s.rows, rows);
  const size_t sum_floats = KeySumFloats(s);
  Arena arena(scratch);
  float* block_scratch = arena.Take<float>(threads * floats);
  float* sums = arena.Take<float>((splits == 1 ? threads : s.pairs() * splits) * 2 * sum_floats);
  const auto run = HWY_DYNAMIC_POINTER(RunBackwardBlock);
  const auto store = HWY_DYNAMIC_POINTER(RunStoreKeyGradients);
  ParallelFor(pool, s.pairs() * splits, [&](size_t task, size_t thread) {
    const size_t pair = task / splits, split = task % splits;
    float* dk = sums + (splits == 1 ? thread : task) * 2 * sum_floats;
    std::memset(dk, 0, 2 * sum_floats * sizeof(float));
    // Rounds alternate their direction (0, 1, 2, 2, 1, 0, …), which balances the parts, because
    // later blocks see more keys.
    for (size_t round = 0; round * splits < blocks; ++round) {
      const size_t block = round * splits + (round % 2 == 0 ? split : splits - 1 - split);
      if (block >= blocks) continue;
      run(args, s, BlockOf(s, pair, block, rows), block_scratch + thread * floats, dk,
          dk + sum_floats);
    }
    if (splits == 1) {
      store(args, s, pair / s.kv_heads, pair % s.kv_heads, 0, s.queries, dk, 0, 1);
    }
  });
  if (splits == 1) return;
  const size_t parts = (s.queries + kKeyTile - 1) / kKeyTile;
  ParallelFor(pool, s.pairs() * parts, [&](size_t task, size_t) {
    const size_t pair = task / parts, begin = task % parts * kKeyTile;
    store(args, s, pair / s.kv_heads, pair % s.kv_heads, begin,
          std::min(s.queries, begin + kKeyTile), sums + pair * splits * 2 * sum_floats,
          2 * sum_floats, splits);
  });
}

template PlannedCall Plan(const AttentionForwardArgs&, int);
template PlannedCall Plan(const AttentionBackwardArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
